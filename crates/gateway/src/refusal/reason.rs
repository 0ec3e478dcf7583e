/// Names the reason of a denial to programs.
pub(crate) const DENIED: &str = "x-fumehood-denied";

/// Why something is denied: a code for programs, and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// A stable code of small letters and underscores, such as `connect_method`.
    pub(crate) reason: &'static str,
    /// What was denied, by what, why, and how to allow it.
    pub(crate) text: String,
}

impl Refusal {
    /// A refusal with its code and its words.
    pub(crate) fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }

    /// The words as a page's body: with a line's end.
    pub(crate) fn body(&self) -> String {
        format!("{}\n", self.text.trim_end())
    }
}

//! The reason for a refusal.

/// The response header that holds the code of a refusal, for programs.
pub(crate) const DENIED_HEADER: &str = "x-fumehood-denied";

/// The reason for a refusal: a code for programs, and text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// A stable code of lowercase letters and underscores, such as `connect_method`.
    pub(crate) code: &'static str,
    /// The denied subject, the policy, the reason, and how to allow it.
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// Returns the text as the body of a page, which ends with a newline.
    pub(crate) fn body(&self) -> String {
        format!("{}\n", self.text.trim_end())
    }
}

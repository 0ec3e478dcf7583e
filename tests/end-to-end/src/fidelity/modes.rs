use serde::Deserialize;

/// A way to run a program. In the table of exceptions and in directives: the variant's name in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The plain interpreter on a file in the guest: what the other modes are compared with.
    Plain,
    /// A one-shot run in a restored VM of its own.
    Run,
    /// A one-shot run in a sandbox, with an interpreter that was started for it.
    Fresh,
    /// A run in a new context of a sandbox.
    Context,
    /// A one-shot run in a sandbox that displays values.
    Display,
}

impl Mode {
    /// The modes that are compared with [`Mode::Plain`].
    pub const COMPARED: [Self; 4] = [Self::Run, Self::Fresh, Self::Context, Self::Display];

    /// Returns the name in the table of exceptions and in directives.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Run => "run",
            Self::Fresh => "fresh",
            Self::Context => "context",
            Self::Display => "display",
        }
    }

    /// Returns the mode with this name.
    ///
    /// # Errors
    /// Returns a message with the known names.
    pub fn parse(name: &str) -> Result<Self, String> {
        let all = [Self::Plain].into_iter().chain(Self::COMPARED);
        let found = all.into_iter().find(|mode| mode.as_str() == name);
        found.ok_or_else(|| {
            format!(
                "there is no mode `{name}`; the modes are plain, run, fresh, context and display"
            )
        })
    }
}

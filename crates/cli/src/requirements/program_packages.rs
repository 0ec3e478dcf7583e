//! The packages that a file names.

/// The packages that a program names itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProgramPackages {
    /// Where they are named, for a message.
    pub(crate) source: String,
    /// Each with its version specifier, if it has one.
    pub(crate) packages: Vec<String>,
    /// Why some are left out, one sentence each.
    pub(crate) skipped: Vec<String>,
}

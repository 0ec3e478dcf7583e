//! The tables of records.

/// A table of objects that have an owner and a state.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Table {
    Runs,
    Sandboxes,
}

impl Table {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Sandboxes => "sandboxes",
        }
    }
}

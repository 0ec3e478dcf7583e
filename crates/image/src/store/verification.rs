//! The report of a verification.

use std::path::PathBuf;

/// What [`Store::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The image's id.
    pub id: String,
    /// One report for each part, in the manifest's order.
    pub parts: Vec<PartReport>,
}

impl Verification {
    /// Whether every part is what the manifest says.
    pub fn is_intact(&self) -> bool {
        self.parts
            .iter()
            .all(|part| part.state == PartState::Intact)
    }
}

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReport {
    /// `kernel`, `initrd` or `rootfs`.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The hash the manifest names.
    pub expected: String,
    /// What was found.
    pub state: PartState,
}

/// The state of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    /// Its hash is the manifest's.
    Intact,
    /// Its hash is another.
    Damaged {
        /// The hash that was found.
        found: String,
    },
    /// It cannot be read.
    Unreadable {
        /// Why not.
        reason: String,
    },
}

//! The report of a verification.

use std::path::PathBuf;

/// The result of [`Store::verify`](super::Store::verify).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The image's id.
    pub id: String,
    /// One report per part, in the manifest's order.
    pub parts: Vec<PartReport>,
}

impl Verification {
    /// Returns whether every part matches the manifest.
    pub fn is_intact(&self) -> bool {
        self.parts
            .iter()
            .all(|part| part.state == PartState::Intact)
    }
}

/// The verification of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReport {
    /// `kernel`, `initrd` or `rootfs`.
    pub name: String,
    /// The part's file.
    pub path: PathBuf,
    /// The hash in the manifest.
    pub expected: String,
    /// The state of the file.
    pub state: PartState,
}

/// The state of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    /// The hash matches the manifest.
    Intact,
    /// The hash differs from the manifest.
    Damaged {
        /// The hash of the file.
        found: String,
    },
    /// The file cannot be read.
    Unreadable {
        /// The error.
        reason: String,
    },
}

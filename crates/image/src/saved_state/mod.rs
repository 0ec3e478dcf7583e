//! Saved states of sandboxes: guests that were paused, and durable checkpoints.
//!
//! `states/ID/` contains the pages of the guest's memory that differ from its template, an index of them with checksums,
//! the devices' state, and a manifest. `states/pinned/` contains what states need and share. A state appears when it is
//! complete on the disk, and is never changed. It is consumed at most once, by the process that has claimed it.
//!
//! Stopping and restoring guests belongs in the engine.

mod claim;
mod consumption;
mod format;
mod id;
mod index;
mod manifest;
mod opened;
mod pages;
mod pins;
mod process;
mod saved_states;
mod writer;

pub use self::claim::StateClaim;
pub use self::id::StateId;
pub use self::index::PageIndex;
pub use self::manifest::{PinnedFile, ProcessRecord, StateManifest};
pub use self::opened::{OpenedState, StoredPages};
pub use self::pages::PageWriter;
pub use self::pins::NeededFile;
pub use self::process::{ProcessSaver, ProcessTarget, StoredProcess};
pub use self::saved_states::{SavedStates, StateSummary};
pub use self::writer::StateToSave;

#[cfg(test)]
mod tests;

//! Sandboxes: VMs that are kept, with their files, contexts, installed packages and checkpoints.
//!
//! Acquiring the VM belongs to `provision`.

mod checkpoint;
mod context;
mod directory_tar;
mod file_reader;
mod files;
mod fork;
mod install;
mod sandbox;
mod stall_timer;
mod watcher;

pub use checkpoint::Checkpoint;
pub use context::Context;
pub use file_reader::FileReader;
pub use files::{Files, WriteOptions};
pub use install::InstalledPackage;
pub use sandbox::Sandbox;
pub(crate) use sandbox::Times;
pub use watcher::Watcher;

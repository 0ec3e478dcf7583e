//! Sandboxes: VMs in which several programs run, with their files, contexts, installed packages and checkpoints.
//!
//! Acquiring the VM belongs to `provision`; the events and outcomes of programs belong to `run`.

mod checkpoint;
mod context;
mod directory;
mod file_reader;
mod files;
mod fork;
mod install;
mod local_file;
mod one_shot;
mod sandbox;
mod stall_timer;
mod transfer_deadline;
mod watcher;

pub use checkpoint::Checkpoint;
pub(crate) use checkpoint::CheckpointOrigin;
pub use context::Context;
#[cfg(feature = "fuzzing")]
pub(crate) use directory::unpack;
pub use directory::{link_stays_inside, pack_directory, unpack_directory};
pub use file_reader::FileReader;
pub use files::{Files, WriteOptions};
pub(crate) use one_shot::OneShotRun;
pub use sandbox::Sandbox;
pub(crate) use sandbox::SandboxTimeouts;
pub use watcher::Watcher;

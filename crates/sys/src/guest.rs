//! What the agent needs inside a VM.
//!
//! The agent has one thread. That is what makes [`launch`] sound: a forked child of a process with
//! one thread may do whatever its parent could.

mod attempt;
mod children;
mod emulated;
mod entropy;
mod files_of;
mod heap;
mod interface;
mod launch;
mod loopback;
mod mapped;
mod scheduling;
mod signals;

pub use attempt::SyscallProbe;
pub use children::{ChildExit, peek_exited_child, reap};
pub use emulated::is_emulated;
pub use entropy::{add_entropy, reseed};
pub use files_of::FsCredentials;
pub use heap::keep_freed_memory;
pub use interface::{Address, interface_up};
pub use launch::{Launch, LaunchFailure, Stage, launch, reserve_descriptors};
pub use loopback::loopback_up;
pub use mapped::MappedFile;
pub use scheduling::set_realtime_priority;
pub use signals::{PendingSignals, Signals};

//! The system calls that the agent needs inside a VM. Nothing here is used on the host.
//!
//! The agent has one thread. This makes [`launch`] sound: the forked child of a single-threaded process
//! may do whatever its parent could.

mod children;
mod emulation;
mod entropy;
mod fs_credentials;
mod heap;
mod interface;
mod launch;
mod loopback;
mod mapped_file;
mod scheduling;
mod signals;
#[cfg(feature = "probes")]
mod syscall_probe;

pub use children::{ChildExit, peek_exited_child, reap};
pub use emulation::is_emulated;
pub use entropy::{add_entropy, reseed};
pub use fs_credentials::FsCredentials;
pub use heap::keep_freed_memory;
pub use interface::{Address, interface_up};
pub use launch::{Fallback, Launch, LaunchFailure, Stage, launch, reserve_descriptors};
pub use loopback::loopback_up;
pub use mapped_file::MappedFile;
pub use scheduling::set_realtime_priority;
pub use signals::{PendingSignals, Signals};
#[cfg(feature = "probes")]
pub use syscall_probe::SyscallProbe;

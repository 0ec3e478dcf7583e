//! What the engine needs around QEMU.

mod clone;
mod forbidden;
mod kvm;
mod landlock;
mod memory_file;
mod mounts;
mod spawn;
mod tsc;

pub use clone::{CloneResult, Namespaces, clone_sibling};
pub use forbidden::{ForbiddenSyscall, reaches_kernel};
pub use kvm::{KvmProbe, probe_kvm};
pub use landlock::{LandlockRuleset, landlock_abi};
pub use memory_file::{memory_file, seal, sealable_file};
pub use mounts::{MountRestriction, restrict_mounts};
pub use spawn::{Credentials, can_setuid, close_fds_except, spawn};
pub use tsc::tsc_khz;

//! What the engine needs around QEMU.

mod clone;
mod forbidden;
mod kvm;
mod landlock;
mod memory_file;
mod mounts;
mod spawn;
mod tsc;

pub use clone::{Namespaces, Side, clone_sibling};
pub use forbidden::{Forbidden, reaches_the_kernel};
pub use kvm::{KvmProbe, probe_kvm};
pub use landlock::{Walls, landlock_abi};
pub use memory_file::{memory_file, seal, sealable_file};
pub use mounts::{Without, restrict_mounts};
pub use spawn::{Credentials, keep_only, may_become, spawn};
pub use tsc::tsc_khz;

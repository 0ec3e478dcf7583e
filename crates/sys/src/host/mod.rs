//! What the engine needs around QEMU.

mod kvm;
mod landlock;
mod memory_file;
mod spawn;
mod tsc;

pub use kvm::{KvmProbe, probe_kvm};
pub use landlock::{Walls, landlock_abi};
pub use memory_file::{memory_file, seal, sealable_file};
pub use spawn::{Confinement, Credentials, Namespaces, may_become, spawn, usable_namespaces};
pub use tsc::tsc_khz;

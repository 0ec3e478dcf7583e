//! Turns a fresh microVM into a working system: what an init does, and no more.
//!
//! The kernel has unpacked an initramfs that contains only this program. The root file system is a read-only disk; a
//! tmpfs over it takes all writes. Anything that happens to a guest after its boot does not belong here.

mod error;
mod init;
mod modules;
mod mounts;
mod network;
mod system;

pub(crate) use init::run;

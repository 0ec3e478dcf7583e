//! Every `unsafe` block and raw operating-system call of the workspace, each with its reason.
//!
//! Linux on x86_64. `guest` holds what the agent needs inside a VM, `host` what the engine needs
//! around QEMU.

pub mod guest;
pub mod host;

//! All `unsafe` blocks and raw system calls of the workspace, each with its reason.
//!
//! Linux on x86_64. [`guest`] holds the calls that the agent needs inside a VM, [`host`] those that the
//! engine and the launcher need around QEMU. The feature `probes` adds calls for test programs that try to
//! break out; product crates do not enable it.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

pub mod guest;
pub mod host;

//! QEMU as a program: its process, its command line, its monitor (QMP), and the memory of its guest. This crate
//! knows no sandbox.
//!
//! The modules, from the top layer to the bottom; a module uses only those below it.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

mod process;
mod process_image;
mod command_line;
mod guest_memory;
mod qmp;

pub use command_line::{
    Accel, Append, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Initrd, Kernel, Machine,
    Memory, Monitor, Netdev, NullBlockdev, QemuArg, Sandbox, Serial,
};
pub use fumehood_launcher::{
    IMAGE_VERSION, IsolationLayer, PID_LIMIT, ProcessImage, UID_BASE, User,
};
pub use guest_memory::{GuestMemory, GuestPages, GuestRange, MemoryError};
pub use process::{
    LaunchConfig, Launcher, Process, ProcessError, ProcessSpec, ProcessStart, ResourceLimits,
};
pub use process_image::{
    DescriptorIdentity, GuestMapping, ImageError, ProcessToSave, SavedFile, SavedProcess,
};
pub use qmp::{Event, Pending, Qmp, QmpError};

//! QEMU as a program: its command line, its monitor (QMP), its process, its guest's memory. Knows no
//! sandbox.

mod attempt;
mod cgroup;
mod command_line;
mod launcher;
mod memory;
mod needs;
mod process;
mod qmp;

pub use cgroup::ResourceLimits;
pub use command_line::{
    Accel, Append, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Initrd, Kernel, Machine,
    Memory, Monitor, Netdev, NullBlockdev, QemuArg, Sandbox, Serial,
};
pub use fumehood_launcher::{IsolationLayer, PROCESSES, UID_BASE, User};
pub use launcher::{LaunchConfig, Launcher, ProcessError, ProcessSpec};
pub use memory::{GuestMemory, MemoryError};
pub use process::Process;
pub use qmp::{Event, Pending, Qmp, QmpError};

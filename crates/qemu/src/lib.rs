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

pub use cgroup::Allowance;
pub use command_line::{
    Accel, Append, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Initrd, Kernel, Machine,
    Memory, Mon, Netdev, NullBlockdev, Sandbox, Serial, Switch,
};
pub use fumehood_launcher::{OWN_USERS, PROCESSES, User, Wall};
pub use launcher::{Launcher, ProcessError, Setting, Wanted};
pub use memory::{GuestMemory, MemoryError};
pub use process::Process;
pub use qmp::{Event, Pending, Qmp, QmpError};

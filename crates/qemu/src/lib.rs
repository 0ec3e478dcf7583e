//! QEMU as a program: its command line, its monitor (QMP), its process, its guest's memory. Knows no
//! sandbox.

mod command_line;
mod memory;
mod process;
mod qmp;

pub use command_line::{
    Accel, Append, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Initrd, Kernel, Machine,
    Memory, Mon, Netdev, NullBlockdev, Sandbox, Serial, Switch,
};
pub use memory::{GuestMemory, MemoryError};
pub use process::{Launcher, Process, ProcessError};
pub use qmp::{Event, Pending, Qmp, QmpError};

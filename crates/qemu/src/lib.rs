//! QEMU as a program: its command line, its monitor (QMP), its process. Knows no sandbox.

mod command_line;
mod process;
mod qmp;

pub use command_line::{
    Accel, Append, Blockdev, Chardev, CommandLine, Cpu, Device, Fdset, Initrd, Kernel, Machine,
    Memory, Mon, Sandbox, Serial, Switch,
};
pub use process::{Launcher, Process, ProcessError};
pub use qmp::{Event, Qmp, QmpError};

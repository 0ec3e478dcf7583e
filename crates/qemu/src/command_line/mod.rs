//! QEMU's command line: a builder, and one type for each option. Options keep the names that QEMU uses.

mod machine;
mod device;
mod chardev;
mod builder;

#[cfg(test)]
mod tests;

pub use builder::{CommandLine, QemuArg};
pub use chardev::{Chardev, Monitor, Serial};
pub use device::{Blockdev, Device, Fdset, Netdev, NullBlockdev};
pub use machine::{Accel, Append, Cpu, Initrd, Kernel, Machine, Memory, Sandbox};

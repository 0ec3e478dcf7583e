//! QEMU processes: starting them isolated, and their end. Arguments and the monitor are not known here.

mod launcher;
mod starter;
mod launch_attempt;
mod qemu_process;
mod cgroup;
mod child;
mod required_files;
mod spec;

pub use launcher::Launcher;
pub use qemu_process::Process;
pub use spec::{LaunchConfig, ProcessError, ProcessSpec, ProcessStart, ResourceLimits};

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use fumehood_launcher::User;

/// Why a QEMU process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A program could not be executed.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The launcher did not start it.
    #[error("{0}")]
    Launch(String),
    /// All isolation layers are required, and not all are available.
    #[error(
        "full isolation is required but not available: {0}; `fumehood doctor` shows how to fix it"
    )]
    IncompleteIsolation(String),
    /// The thread that starts processes has ended.
    #[error("the launcher has ended; QEMU cannot be started any more")]
    LauncherGone,
}

/// The settings that all QEMU processes of an engine share.
#[derive(Debug, Clone)]
pub struct LaunchConfig {
    /// The launcher: the program that isolates itself and becomes QEMU.
    pub launcher: PathBuf,
    /// QEMU.
    pub program: PathBuf,
    /// The devices that it may use.
    pub devices: Vec<PathBuf>,
    /// The user that it runs as. With [`User::Same`], it gets a user namespace that contains one user.
    pub user: User,
    /// The user where it uses the devices of the host: where it gets no separate root, or this host
    /// does not let root create nodes of devices.
    pub user_of_host_devices: User,
    /// Whether all isolation layers are required. If so, nothing is started without one of them.
    pub require_all_layers: bool,
}

/// One QEMU process to start.
#[derive(Debug)]
pub struct ProcessSpec {
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The descriptors that it inherits under the same numbers. They are closed here after the start.
    pub inherit: Vec<OwnedFd>,
    /// Its resource limits.
    pub limits: ResourceLimits,
}

/// The limits of the host's resources that one QEMU may use, enforced by its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimits {
    /// The memory of QEMU and its guest, in MiB.
    pub memory_mib: u64,
    /// The number of threads.
    pub threads: u64,
    /// The processor time, in percent of one processor.
    pub processor_percent: u64,
}

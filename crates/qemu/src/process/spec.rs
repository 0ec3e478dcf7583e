use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use fumehood_launcher::User;

use crate::process_image::SavedProcess;

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
    /// How it starts.
    pub start: ProcessStart,
    /// Its resource limits.
    pub limits: ResourceLimits,
}

/// How a process starts.
#[derive(Debug)]
pub enum ProcessStart {
    /// By executing the program of the [`LaunchConfig`].
    Execute {
        /// Its arguments.
        args: Vec<OsString>,
        /// The descriptors that it inherits under the same numbers. They are closed here after the start.
        inherit: Vec<OwnedFd>,
    },
    /// By continuing from an image. It sees no files at all.
    Continue {
        /// The image.
        saved: SavedProcess,
        /// The new descriptors, in the order of [`ProcessToSave::passed`](crate::ProcessToSave::passed). They are closed here
        /// after the start.
        descriptors: Vec<OwnedFd>,
    },
}

impl ProcessStart {
    /// Returns all descriptors that its launcher inherits.
    pub(super) fn inherited(&self) -> Vec<&OwnedFd> {
        match self {
            Self::Execute { inherit, .. } => inherit.iter().collect(),
            Self::Continue { saved, descriptors } => {
                let files = saved.file_descriptors().chain([saved.description()]);
                descriptors.iter().chain(files).collect()
            }
        }
    }
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

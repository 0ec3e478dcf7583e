use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of these types. An owner and its launcher must agree on it; every change of the types
/// increments it.
pub const VERSION: u32 = 3;

/// The program to start, and its isolation. Either all of the isolation is set up, or nothing is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The version: [`VERSION`].
    pub version: u32,
    /// The program.
    pub program: Program,
    /// The files that it may read and execute: itself, its libraries, its firmware. They are at the same paths
    /// in its root, and no others are.
    pub files: Vec<PathBuf>,
    /// The devices that it may use.
    pub devices: Vec<PathBuf>,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// The user that it runs as.
    pub user: User,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its resource limits.
    pub limits: Limits,
}

/// The program that a launcher becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// A program, which starts from its beginning.
    Execute(ExecuteSpec),
    /// A stopped process, which continues.
    Continue(ContinueSpec),
}

/// A program to execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteSpec {
    /// Its path.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The descriptors that it inherits, under the same numbers.
    pub inherit: Vec<RawFd>,
}

/// A process image to continue from, by descriptors of the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinueSpec {
    /// A file with the [`ProcessImage`](crate::ProcessImage) as JSON.
    pub image: RawFd,
    /// The files that it maps, in the order of their indexes.
    pub files: Vec<RawFd>,
    /// The descriptors from its owner, in the order of their indexes.
    pub descriptors: Vec<RawFd>,
}

/// The new namespaces of the program, which come with a root that contains only the requested files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespaces {
    /// Created by root.
    Privileged,
    /// Created by an ordinary user, inside a user namespace that maps one user.
    InUserNamespace,
    /// None.
    None,
}

/// The user that the program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// A user that no other process has: [`UID_BASE`] plus the process id. Requires root.
    Own {
        /// The group id; none = the same as the user id.
        gid: Option<u32>,
    },
    /// This user.
    Some {
        /// The user id.
        uid: u32,
        /// The group id.
        gid: u32,
    },
    /// The user of the launcher.
    Same,
}

/// The first user id of [`User::Own`]. Linux assigns process ids up to 2²², and the ranges that systemd assigns
/// to containers and people end below this range or start above it.
pub const UID_BASE: u32 = 0x7000_0000;

/// The upper bound of process ids on Linux; every process id is smaller.
pub const PID_LIMIT: u32 = 1 << 22;

/// The cgroup that the program starts in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cgroup {
    /// The cgroup of the launcher.
    Same,
    /// A directory of the unified hierarchy (version 2).
    Unified(PathBuf),
    /// One directory in each of the legacy hierarchies (version 1).
    Legacy(Vec<PathBuf>),
}

/// The resource limits of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The maximum size of a file that it may write, in bytes.
    pub file_bytes: u64,
    /// The maximum number of descriptors.
    pub descriptors: u64,
    /// The maximum number of threads of its user. Applies only to [`User::Own`].
    pub threads: u64,
    /// The maximum size of its address space, in bytes.
    pub address_bytes: u64,
}

/// An isolation layer that a host may lack. The others are always there: no capabilities, no new privileges, a
/// filter of system calls, resource limits, only the named descriptors, death with the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IsolationLayer {
    /// A separate user, or a user namespace.
    User,
    /// Separate namespaces, and a root that contains only the files that the program needs.
    Namespaces,
    /// Landlock.
    Landlock,
    /// A separate cgroup.
    Cgroup,
}

/// A message from a launcher to its owner, one packet of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LauncherMessage {
    /// The process that will become the program exists.
    Cloned {
        /// Its process id, as its parent sees it.
        pid: u32,
    },
    /// The isolation is set up. The program starts when the owner sends a byte; then the socket closes.
    Ready {
        /// The layers that were not requested or that this kernel does not have.
        missing: Vec<IsolationLayer>,
    },
    /// The program was not started.
    Failed {
        /// The layer that failed, if it is one that a host may lack.
        layer: Option<IsolationLayer>,
        /// What failed and why.
        reason: String,
    },
}

/// The maximum size of a packet, in bytes. Some hundred paths and a command line take a tenth of it.
pub const MAX_PACKET_BYTES: usize = 128 * 1024;

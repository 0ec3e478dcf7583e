use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What an owner and its launcher must agree on; raised with every change of these types.
pub const VERSION: u32 = 1;

/// What is to be started, and which walls are to be put up. All of them go up, or nothing is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// [`VERSION`].
    pub version: u32,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Descriptors that it keeps, under the same numbers.
    pub inherit: Vec<RawFd>,
    /// Files that it may read and run: itself, its libraries, its firmware. It finds them at the same
    /// paths, and no others.
    pub files: Vec<PathBuf>,
    /// Devices that it may use.
    pub devices: Vec<PathBuf>,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// Whom it becomes.
    pub user: User,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// What it may take.
    pub limits: Limits,
}

/// Namespaces of its own, and with them a root that holds the order's files and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespaces {
    /// Made by root.
    Privileged,
    /// Made by an ordinary user, inside a user namespace that knows one user.
    InUserNamespace,
    /// None.
    None,
}

/// Whom the program becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// A user that no other process has: [`UID_BASE`] and the number of its process. Needs root.
    Own {
        /// The group; none = the user's number.
        gid: Option<u32>,
    },
    /// This one.
    Some {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// It stays who it is.
    Same,
}

/// The first user of [`User::Own`]. Linux numbers processes up to 2²², and the ranges that systemd hands
/// out to containers and people end below and begin above these.
pub const UID_BASE: u32 = 0x7000_0000;

/// More than the largest number of a process, as Linux bounds it.
pub const PROCESSES: u32 = 1 << 22;

/// The cgroup that the program begins in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cgroup {
    /// The launcher's own.
    Same,
    /// A directory of the unified hierarchy.
    Unified(PathBuf),
    /// One directory in each of the older hierarchies.
    Each(Vec<PathBuf>),
}

/// What the program may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The longest file that it may write, in bytes.
    pub file_bytes: u64,
    /// Descriptors.
    pub descriptors: u64,
    /// Threads of its user, where that is its own.
    pub threads: u64,
    /// Addresses that it may map, in bytes.
    pub address_bytes: u64,
}

/// A wall that a host may not offer. Others are there always: no capabilities, no new privileges, a
/// filter of system calls, limits, only the named descriptors, death with its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IsolationLayer {
    /// A user of its own, or a user namespace.
    User,
    /// Namespaces of its own, and a root that holds nothing but what it needs.
    Namespaces,
    /// Landlock.
    Landlock,
    /// A cgroup of its own.
    Cgroup,
}

/// What a launcher tells, each a packet of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LauncherMessage {
    /// The process that becomes the program is there: its number, as its parent sees it.
    Begun(u32),
    /// All walls stand. The program starts when a byte comes back, and the line ends when it has.
    Ready {
        /// Walls that were not ordered, or that this kernel does not have.
        missing: Vec<IsolationLayer>,
    },
    /// There will be no program.
    Failed {
        /// The wall that could not be put up, if it was one that a host may not offer.
        wall: Option<IsolationLayer>,
        /// What failed and why.
        what: String,
    },
}

/// The longest packet, in bytes: some hundred paths and a command line take a tenth of it.
pub const PACKET_BYTES: usize = 128 * 1024;

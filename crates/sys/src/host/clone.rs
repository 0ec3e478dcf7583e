use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Which namespaces of its own a new process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    /// None.
    None,
    /// Processes, mounts, network, IPC, host name and cgroups; needs root.
    Privileged,
    /// The same, inside a user namespace.
    InUserNamespace,
}

impl Namespaces {
    const fn flags(self) -> libc::c_int {
        const OWN: libc::c_int = libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        match self {
            Self::None => 0,
            Self::Privileged => OWN,
            Self::InUserNamespace => OWN | libc::CLONE_NEWUSER,
        }
    }
}

/// The new process begins in the cgroup of `clone_args`. It fits no C integer, as which the libc crate has it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Where [`clone_sibling`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneResult {
    /// In the process that called it.
    Caller,
    /// In the new one.
    New,
}

/// Goes on in two processes. The new one is no child of the caller but its *sibling*: their common
/// parent waits for it, and is whom a parent-death signal of it is about.
///
/// With `cgroup`, a directory of the unified hierarchy, the new process begins in it.
///
/// # Errors
/// The operating system's; `InvalidInput` where this process has more than one thread.
pub fn clone_sibling(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<CloneResult> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let into = if cgroup.is_some() {
        CLONE_INTO_CGROUP
    } else {
        0
    };
    let flags = libc::CLONE_PARENT | namespaces.flags();
    let args = libc::clone_args {
        flags: u64::from(flags.cast_unsigned()) | into,
        cgroup: cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
    };
    // SAFETY: `args` is valid for the call. No memory is shared with the new process and no stack is
    // given, so it goes on with copies of both. It has been seen that this process has one thread:
    // no lock is held by another, and the new process may allocate.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(CloneResult::New),
        _ => Ok(CloneResult::Caller),
    }
}

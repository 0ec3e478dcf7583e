use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The new namespaces of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    /// None.
    None,
    /// Processes, mounts, network, IPC, host name and cgroups; needs root.
    Privileged,
    /// The same, inside a new user namespace.
    InUserNamespace,
}

impl Namespaces {
    const fn flags(self) -> libc::c_int {
        const NEW: libc::c_int = libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;

        match self {
            Self::None => 0,
            Self::Privileged => NEW,
            Self::InUserNamespace => NEW | libc::CLONE_NEWUSER,
        }
    }
}

/// Starts the new process in the cgroup of `clone_args`. The libc crate defines it as a C integer, which is too
/// narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The process in which [`clone_sibling`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneResult {
    /// The process that called it.
    Caller,
    /// The new process.
    New,
}

/// Clones this process. The new process is not a child of the caller but its *sibling*: their common parent
/// waits for it, and the death of that parent triggers its parent-death signal.
///
/// The new process starts in `cgroup`, a directory of the unified hierarchy, if there is one.
///
/// # Errors
/// The error of the operating system; `InvalidInput` if this process has more than one thread.
pub fn clone_sibling(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<CloneResult> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }

    let into_cgroup = if cgroup.is_some() {
        CLONE_INTO_CGROUP
    } else {
        0
    };
    let flags = libc::CLONE_PARENT | namespaces.flags();
    let args = libc::clone_args {
        flags: u64::from(flags.cast_unsigned()) | into_cgroup,
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
    // given, so it continues with copies of both. This process has one thread, as checked above: no
    // other thread holds a lock, and the new process may allocate.
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

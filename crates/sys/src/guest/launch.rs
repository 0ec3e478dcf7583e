use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

/// A process to start, with everything that is set between fork and exec. Every descriptor that is not
/// named here is closed in it.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The path of the program.
    pub program: &'a CStr,
    /// Its arguments, `argv[0]` first.
    pub arguments: &'a [CString],
    /// Its environment, each entry as `NAME=VALUE`.
    pub environment: &'a [CString],
    /// Its working directory.
    pub directory: BorrowedFd<'a>,
    /// Descriptors 0, 1 and 2.
    pub standard: [BorrowedFd<'a>; 3],
    /// Additional descriptors, numbered from 3 on. At most three.
    pub extra: &'a [BorrowedFd<'a>],
    /// The descriptor to which the child reports a failure ([`LaunchFailure`]). Closed by exec.
    pub report: BorrowedFd<'a>,
    /// The directory of the cgroup (version 2) in which it starts.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The user and group to change to; all other groups are dropped.
    pub identity: Option<(u32, u32)>,
    /// The soft and the hard limit of open files.
    pub open_files: (u64, u64),
    /// Whether descriptor 0 is a terminal that becomes the controlling terminal of the session.
    pub terminal: bool,
    /// What to execute if the program cannot be executed.
    pub fallback: Option<Fallback<'a>>,
}

/// A second program to execute.
#[derive(Debug, Clone, Copy)]
pub struct Fallback<'a> {
    /// The path of the program.
    pub program: &'a CStr,
    /// Its arguments, `argv[0]` first.
    pub arguments: &'a [CString],
}

/// The step in which a child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Creating a session.
    Session,
    /// Changing to its working directory.
    Directory,
    /// Placing its descriptors.
    Descriptors,
    /// Acquiring its terminal.
    Terminal,
    /// Setting its resource limits.
    Limits,
    /// Changing to the user that it runs as.
    Identity,
    /// Giving up the ability to gain privileges.
    Privileges,
    /// Executing the program.
    Execute,
}

impl Stage {
    const ALL: [Self; 8] = [
        Self::Session,
        Self::Directory,
        Self::Descriptors,
        Self::Terminal,
        Self::Limits,
        Self::Identity,
        Self::Privileges,
        Self::Execute,
    ];

    /// Returns a description of the step, for messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "creating a session",
            Self::Directory => "changing to the working directory",
            Self::Descriptors => "placing its descriptors",
            Self::Terminal => "acquiring its terminal",
            Self::Limits => "setting its limits",
            Self::Identity => "changing to the sandbox user",
            Self::Privileges => "giving up privileges",
            Self::Execute => "executing the program",
        }
    }
}

/// Why a child failed before it executed its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchFailure {
    /// The failed step.
    pub stage: Stage,
    /// The kernel's error number.
    pub errno: i32,
}

impl LaunchFailure {
    /// The size of a report, in bytes.
    pub const SIZE: usize = 5;

    /// Decodes a report that a child wrote to [`Launch::report`]. Returns `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (stage, errno) = bytes.get(..Self::SIZE)?.split_first()?;
        let stage = Stage::ALL.into_iter().find(|s| *s as u8 == *stage)?;
        let errno = i32::from_le_bytes(errno.try_into().ok()?);
        Some(Self { stage, errno })
    }
}

impl fmt::Display for LaunchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        write!(f, "{}: {error}", self.stage.as_str())
    }
}

/// The descriptor numbers of [`Launch::extra`].
const EXTRA_FDS: [RawFd; 3] = [3, 4, 5];

/// Occupies descriptors 3 to 5, so that no descriptor of ours can have a number of [`Launch::extra`].
///
/// # Errors
/// The error of the kernel.
pub fn reserve_descriptors(null: BorrowedFd<'_>) -> io::Result<()> {
    for fd in EXTRA_FDS {
        // SAFETY: plain system calls without pointers. A descriptor is changed only if it is closed.
        let result = unsafe {
            if libc::fcntl(fd, libc::F_GETFD) >= 0 {
                continue;
            }
            libc::dup3(null.as_raw_fd(), fd, libc::O_CLOEXEC)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }

    Ok(())
}

/// Starts a process: leader of a new session, in its cgroup from the first instruction, unable to gain
/// privileges, killed when its parent dies. Returns its id immediately; a failure in the child is
/// reported on [`Launch::report`], and the child exits with 127.
///
/// Call this only in a process with one thread.
///
/// # Errors
/// The kernel could not create a process.
pub fn launch(launch: &Launch<'_>) -> io::Result<i32> {
    let arguments = null_terminated(launch.arguments);
    let environment = null_terminated(launch.environment);
    let other = launch.fallback.map_or(&[][..], |other| other.arguments);
    let other = null_terminated(other);

    let pid = match launch.cgroup {
        Some(cgroup) => fork_into_cgroup(cgroup),
        // SAFETY: this process has one thread, so the child's memory is consistent; the child
        // does nothing but `run_child`, which makes only system calls and never returns.
        None => unsafe { libc::fork() },
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }

    if pid == 0 {
        // SAFETY: this is the child of a fork, with nothing else running in it; the arrays end
        // with a null pointer and outlive the call, as do the strings they point to.
        unsafe {
            run_child(
                launch,
                arguments.as_ptr(),
                other.as_ptr(),
                environment.as_ptr(),
            )
        }
    }

    Ok(pid)
}

fn null_terminated(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// From linux/sched.h; the type of libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks, with the child in `cgroup` from its start, so that none of its resources are counted elsewhere.
fn fork_into_cgroup(cgroup: BorrowedFd<'_>) -> i32 {
    // SAFETY: clone_args is plain data, for which zeros are valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_raw_fd() as u64;

    // SAFETY: without CLONE_VM and without a stack this is a fork; the pointer is valid for the
    // size given. As with fork, the process has one thread and the child makes only system calls.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };

    i32::try_from(result).unwrap_or(-1)
}

/// Executes the program, or the fallback with `other` as its arguments, or reports the failure and exits.
///
/// # Safety
/// Call this only in a forked child. All arrays must end with a null pointer and point to C strings.
unsafe fn run_child(
    launch: &Launch<'_>,
    arguments: *const *const libc::c_char,
    other: *const *const libc::c_char,
    environment: *const *const libc::c_char,
) -> ! {
    // SAFETY: system calls, with pointers whose validity the caller guarantees. Nothing here allocates,
    // locks or unwinds.
    unsafe {
        let failed = match prepare_child(launch) {
            Ok(()) => {
                libc::execve(launch.program.as_ptr(), arguments, environment);
                if let Some(fallback) = launch.fallback {
                    libc::execve(fallback.program.as_ptr(), other, environment);
                }
                Stage::Execute
            }
            Err(stage) => stage,
        };

        let errno = (*libc::__errno_location()).to_le_bytes();
        let report = [failed as u8, errno[0], errno[1], errno[2], errno[3]];
        libc::write(
            launch.report.as_raw_fd(),
            report.as_ptr().cast(),
            report.len(),
        );

        libc::_exit(127)
    }
}

/// Sets up everything between fork and exec. On failure, the error number is in `errno`.
///
/// # Safety
/// Call this only in a forked child.
unsafe fn prepare_child(launch: &Launch<'_>) -> Result<(), Stage> {
    // SAFETY: the caller guarantees that this is a forked child.
    unsafe {
        if libc::setsid() < 0 {
            return Err(Stage::Session);
        }
        libc::umask(0o022);
        if libc::fchdir(launch.directory.as_raw_fd()) != 0 {
            return Err(Stage::Directory);
        }

        // While still root, so that the user cannot lower the score again.
        raise_oom_score();
        set_limits(launch).map_err(|()| Stage::Limits)?;
        place_descriptors(launch).map_err(|()| Stage::Descriptors)?;

        if launch.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
            return Err(Stage::Terminal);
        }

        if let Some((user, group)) = launch.identity {
            let changed = libc::setgroups(0, ptr::null()) == 0
                && libc::setresgid(group, group, group) == 0
                && libc::setresuid(user, user, user) == 0;
            if !changed {
                return Err(Stage::Identity);
            }
        }

        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(Stage::Privileges);
        }

        // Set after the change of user, which clears it.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        reset_signals();

        Ok(())
    }
}

/// Makes the kernel prefer this process when memory runs out. Without effect if /proc does not allow it.
///
/// # Safety
/// Call this only in a forked child.
unsafe fn raise_oom_score() {
    // SAFETY: the path is a C string; the buffer is valid for its length.
    unsafe {
        let path = c"/proc/self/oom_score_adj".as_ptr();
        let file = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, c"500".as_ptr().cast(), 3);
            libc::close(file);
        }
    }
}

/// Sets the limit of open files, and forbids core dumps.
///
/// # Safety
/// Call this only in a forked child.
unsafe fn set_limits(launch: &Launch<'_>) -> Result<(), ()> {
    let (soft, hard) = launch.open_files;
    let files = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointers are valid for an rlimit each.
    let set = unsafe {
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files) == 0
            && libc::setrlimit(libc::RLIMIT_CORE, &raw const none) == 0
    };
    if set { Ok(()) } else { Err(()) }
}

/// Moves the descriptors of the program to their numbers.
///
/// # Safety
/// Call this only in a forked child: descriptors 0 to 5 are replaced, and all others close at exec.
unsafe fn place_descriptors(launch: &Launch<'_>) -> Result<(), ()> {
    let place = |from: BorrowedFd<'_>, to: RawFd| {
        // SAFETY: a plain system call; the caller guarantees that `to` may be replaced.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            Err(())
        } else {
            Ok(())
        }
    };

    for (to, from) in (0..).zip(launch.standard) {
        place(from, to)?;
    }

    let mut first_closed: libc::c_uint = 3;
    for (to, &from) in EXTRA_FDS.into_iter().zip(launch.extra) {
        place(from, to)?;
        first_closed += 1;
    }

    // Our descriptors are all close-on-exec; this closes those that a parent of the agent may have left open.
    // SAFETY: a plain system call without pointers.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first_closed,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }

    Ok(())
}

/// Resets dispositions to the default and unblocks all signals. Only the disposition of SIGPIPE can differ, see
/// [`Signals::take`](super::Signals::take); handlers do not survive exec.
///
/// # Safety
/// Call this only in a forked child.
unsafe fn reset_signals() {
    // SAFETY: SIG_DFL runs no code of ours; a zeroed set is initialised by sigemptyset before it
    // is read.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_decoded() {
        for stage in Stage::ALL {
            let mut bytes = vec![stage as u8];
            bytes.extend(libc::ENOENT.to_le_bytes());
            let failure = LaunchFailure::decode(&bytes).unwrap();
            assert_eq!(
                failure,
                LaunchFailure {
                    stage,
                    errno: libc::ENOENT
                }
            );
        }

        assert_eq!(LaunchFailure::decode(&[]), None);
        assert_eq!(LaunchFailure::decode(&[99, 0, 0, 0, 0]), None);
    }
}

use std::io;
use std::mem::MaybeUninit;

/// How a child process ended, and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildExit {
    /// What it exited with, where it exited.
    pub code: Option<i32>,
    /// The signal that ended it, where one did.
    pub signal: Option<i32>,
    /// CPU time of it and of the children it waited for, in microseconds.
    pub cpu_time_us: u64,
    /// The most memory that it held at once, in bytes.
    pub peak_memory_bytes: u64,
}

/// The id of a child that has ended and was not reaped, if there is one. It stays unreaped, so its
/// id cannot be given to another process meanwhile.
///
/// # Errors
/// What the kernel says; no children at all is no error.
pub fn peek_exited_child() -> io::Result<Option<i32>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is valid for a siginfo_t for the length of the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
    if result != 0 {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error => Err(error),
        };
    }
    // SAFETY: the value was zeroed, and zeros are a valid siginfo_t; the call filled it, or left
    // its process id 0 when no child has ended. That field is the one that waitid fills.
    let pid = unsafe { info.assume_init().si_pid() };
    Ok((pid > 0).then_some(pid))
}

/// Reaps this ended child. `None`: it has not ended.
///
/// # Errors
/// What the kernel says, `ECHILD` where there is no such child.
pub fn reap(pid: i32) -> io::Result<Option<ChildExit>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for their types for the length of the call.
    let result = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if result == 0 {
        return Ok(None);
    }
    // SAFETY: the value was zeroed, zeros are a valid rusage, and the call filled it.
    let usage = unsafe { usage.assume_init() };
    let microseconds = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    Ok(Some(ChildExit {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        cpu_time_us: microseconds(usage.ru_utime) + microseconds(usage.ru_stime),
        peak_memory_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }))
}

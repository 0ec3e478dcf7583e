use std::io;
use std::mem::MaybeUninit;

/// The exit status and the resource usage of a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildExit {
    /// The exit code, if the child exited.
    pub code: Option<i32>,
    /// The signal that terminated it, if one did.
    pub signal: Option<i32>,
    /// The CPU time of it and of the children that it waited for, in microseconds.
    pub cpu_time_us: u64,
    /// Its peak memory, in bytes.
    pub peak_memory_bytes: u64,
}

/// Returns the id of a child that has ended and was not reaped, if there is one. It stays unreaped, so
/// the kernel cannot reuse its id in the meantime.
///
/// # Errors
/// The error of the kernel. Having no children is not an error.
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
    // its process id 0 if no child has ended. That field is the one that waitid fills.
    let pid = unsafe { info.assume_init().si_pid() };
    Ok((pid > 0).then_some(pid))
}

/// Reaps this child. Returns `None` if it has not ended.
///
/// # Errors
/// The error of the kernel; `ECHILD` if there is no such child.
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

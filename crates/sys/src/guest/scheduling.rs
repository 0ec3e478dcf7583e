use std::io;

/// Gives this process real-time priority, so that it runs as soon as it has something to do. Its children do not
/// inherit that. Otherwise, a program that has written output continues for milliseconds, often to its end,
/// before the process that waits for the output gets the only processor.
///
/// # Errors
/// The error of the kernel; `EPERM` if the caller is not allowed to.
pub fn set_realtime_priority() -> io::Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the pointer is valid for the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const lowest) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

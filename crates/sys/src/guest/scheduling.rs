use std::io;

/// Lets this process run as soon as it has something to do, whatever else runs; its children do not inherit
/// that. Otherwise a program that has written something goes on for milliseconds, often to its end, before
/// the one that waits for its output gets the only processor.
///
/// # Errors
/// What the kernel says: `EPERM` where it is not allowed.
pub fn set_realtime_priority() -> io::Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the pointer is valid for the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const lowest) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

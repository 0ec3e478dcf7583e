use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

/// Bytes that a program can write before it has to wait for the agent.
const PIPE_BYTES: usize = 256 * 1024;

/// Makes a pipe for output and returns the agent's end, which does not block, and the child's. The pipe belongs to `user`,
/// if one is given.
///
/// # Errors
/// Returns the kernel's error.
pub(crate) fn output_pipe(user: Option<(u32, u32)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, of_child) = user_pipe(user)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    // A pipe that stays small is only slower.
    let _ = rustix::pipe::fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((ours, of_child))
}

/// Makes a pipe for standard input and returns its reading and its writing end. The pipe belongs to `user`, if one is
/// given.
///
/// # Errors
/// Returns the kernel's error.
pub(crate) fn input_pipe(user: Option<(u32, u32)>) -> io::Result<(OwnedFd, OwnedFd)> {
    user_pipe(user)
}

/// Makes a pipe that its user can open again: by `/dev/stdin`, `/dev/stdout`, `/dev/stderr` and `/dev/fd`.
fn user_pipe(user: Option<(u32, u32)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    if let Some((user, group)) = user {
        // Both ends have the same inode.
        std::os::unix::fs::fchown(&pipe.0, Some(user), Some(group))?;
    }
    Ok(pipe)
}

/// Opens another writing end of the pipe that `reader` reads from.
///
/// # Errors
/// Returns the kernel's error.
pub(crate) fn open_writer(reader: &OwnedFd) -> io::Result<OwnedFd> {
    reopen(reader, OFlags::WRONLY)
}

/// Opens another, non-blocking reading end of the pipe that `reader` reads from.
///
/// # Errors
/// Returns the kernel's error.
pub(crate) fn open_reader(reader: &OwnedFd) -> io::Result<OwnedFd> {
    reopen(reader, OFlags::RDONLY)
}

fn reopen(pipe: &OwnedFd, access: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Discards the bytes that a pipe holds.
pub(crate) fn drain(reader: &OwnedFd) {
    let mut discarded = [0; 4096];
    while let Ok(1..) = rustix::io::read(reader, &mut discarded) {}
}

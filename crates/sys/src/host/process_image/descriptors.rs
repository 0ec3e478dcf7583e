use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The first number of descriptors that are needed only until a process continues. Below are those that it keeps.
pub(super) const FIRST_MOVED: RawFd = 512;

/// A descriptor under the number that a process expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorPlacement {
    /// The number that it has.
    pub source: RawFd,
    /// The number that it gets: 3 to 511.
    pub target: RawFd,
    /// Whether reads and writes return instead of waiting.
    pub nonblocking: bool,
}

/// Gives descriptors the numbers that a process expects, and closes all others of this process above standard error. Returns
/// the new numbers of `files`, which are above all others.
///
/// Descriptors that this program still holds are invalid afterwards: it must become the other process at once.
///
/// # Errors
/// The error of the operating system; `InvalidInput` if a number is too large.
pub fn place_descriptors(
    files: &[RawFd],
    placements: &[DescriptorPlacement],
) -> io::Result<Vec<RawFd>> {
    // Everything that is needed moves up, so that no number is in use below.
    let mut moved = Vec::with_capacity(placements.len());
    for placement in placements {
        if !(3..FIRST_MOVED).contains(&placement.target) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        moved.push(move_up(placement.source)?);
    }
    let files = files
        .iter()
        .map(|file| move_up(*file))
        .collect::<io::Result<Vec<_>>>()?;
    close_except(moved.iter().chain(&files).copied())?;

    for (source, placement) in moved.into_iter().zip(placements) {
        // SAFETY: both numbers belong to this function: one was created above, the other one is not open.
        check(unsafe { libc::dup3(source, placement.target, libc::O_CLOEXEC) })?;
        close_range(source, source)?;
        if placement.nonblocking {
            // SAFETY: the descriptor is open; the call takes a number.
            check(unsafe { libc::fcntl(placement.target, libc::F_SETFL, libc::O_NONBLOCK) })?;
        }
    }
    Ok(files)
}

/// Closes all descriptors above standard error but these.
fn close_except(kept: impl Iterator<Item = RawFd>) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.collect();
    kept.sort_unstable();

    let mut next = 3;
    for fd in kept {
        if fd > next {
            close_range(next, fd - 1)?;
        }
        next = fd + 1;
    }
    close_range(next, RawFd::MAX)
}

/// Duplicates a descriptor that this program has inherited, by its number.
///
/// # Errors
/// The error of the operating system: it is not open.
pub fn duplicate_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: it is borrowed only for this call, which fails if it is not open.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// Creates a descriptor that reads the signals of a set, one bit each.
///
/// # Errors
/// The error of the operating system.
pub fn signal_descriptor(mask: u64) -> io::Result<OwnedFd> {
    let flags = libc::SFD_CLOEXEC;
    // SAFETY: the kernel reads the 8 bytes of the mask, which is valid for the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            size_of::<u64>(),
            flags,
        )
    };
    let fd = check(i32::try_from(fd).unwrap_or(-1))?;
    // SAFETY: the descriptor is new, and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Duplicates a descriptor under the next free number above those that a process keeps.
fn move_up(fd: RawFd) -> io::Result<RawFd> {
    // SAFETY: `fcntl` takes numbers; one that is not open is an error.
    check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST_MOVED) })
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: the caller of `place_descriptors` does not use these descriptors any more.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(i32::try_from(closed).unwrap_or(-1)).map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        other => Ok(other),
    }
}

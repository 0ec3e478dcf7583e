use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};

/// A file in memory, without a name in any directory: gone with its last descriptor. Whoever gets
/// the descriptor may read it, also by `/proc/self/fd`.
///
/// # Errors
/// The operating system's.
pub fn memory_file(name: &str) -> io::Result<File> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC)?;
    fchmod(&fd, Mode::from_raw_mode(0o644))?;
    Ok(fd.into())
}

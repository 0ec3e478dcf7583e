use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};

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

/// A file in memory that can be sealed: filled, then [`seal`]ed, it can be given to a process that is
/// not trusted. That process may open it for writing too (some programs know no other way), but not
/// write to it.
///
/// # Errors
/// The operating system's.
pub fn sealable_file(name: &str) -> io::Result<File> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    fchmod(&fd, Mode::from_raw_mode(0o666))?;
    Ok(fd.into())
}

/// Nobody can change the contents or the size from now on, nor undo this. Fails while a writable
/// mapping of it is shared.
///
/// # Errors
/// The operating system's.
pub fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, seals)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_sealed_cannot_be_written() {
        let mut file = sealable_file("test").unwrap();
        file.write_all(b"kept").unwrap();
        seal(&file).unwrap();
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(file.metadata().unwrap().len(), 4);
    }
}

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};

/// Creates a file in memory that has no name in any directory and is removed with its last descriptor. Every
/// process that inherits the descriptor may read it, also by `/proc/self/fd`. `name` appears only in `/proc`.
///
/// # Errors
/// The error of the operating system.
pub fn memory_file(name: &str) -> io::Result<File> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC)?;
    fchmod(&fd, Mode::from_raw_mode(0o644))?;
    Ok(fd.into())
}

/// Creates a file in memory that can be sealed. Once filled and [`seal`]ed, it can be passed to an untrusted
/// process. That process may also open it for writing (some programs always do), but cannot write to it.
///
/// # Errors
/// The error of the operating system.
pub fn sealable_file(name: &str) -> io::Result<File> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    fchmod(&fd, Mode::from_raw_mode(0o666))?;
    Ok(fd.into())
}

/// Makes content and size of the file immutable, irreversibly. Fails while there is a writable shared mapping
/// of it.
///
/// # Errors
/// The error of the operating system.
pub fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, seals)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_sealed_file_cannot_be_written() {
        let mut file = sealable_file("test").unwrap();
        file.write_all(b"kept").unwrap();
        seal(&file).unwrap();
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(file.metadata().unwrap().len(), 4);
    }
}

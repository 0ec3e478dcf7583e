use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// How long [`seal`] waits for the kernel to release pages of the file.
const SEAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often [`seal`] tries again meanwhile.
const SEAL_INTERVAL: Duration = Duration::from_millis(5);

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

/// Makes content and size of the file immutable, irreversibly.
///
/// The kernel refuses to seal a file (`EBUSY`) while there is a writable shared mapping of it, and also while it
/// holds a page itself: memory reclaim and compaction do so for moments. This function tries again for up to two
/// seconds.
///
/// # Errors
/// The error of the operating system.
pub fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    let start = Instant::now();

    loop {
        match fcntl_add_seals(file, seals) {
            Err(Errno::BUSY) if start.elapsed() < SEAL_TIMEOUT => {
                std::thread::sleep(SEAL_INTERVAL);
            }
            other => return Ok(other?),
        }
    }
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

    #[test]
    fn sealing_waits_while_the_file_is_busy() {
        use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

        let mut file = sealable_file("test").unwrap();
        file.write_all(&[1; 4096]).unwrap();
        // SAFETY: a new mapping at an address that the kernel chooses; nothing refers to it but `munmap` below.
        let mapping = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            mmap(
                std::ptr::null_mut(),
                4096,
                access,
                MapFlags::SHARED,
                &file,
                0,
            )
            .unwrap()
        } as usize;
        assert_eq!(fcntl_add_seals(&file, SealFlags::WRITE), Err(Errno::BUSY));

        let unmapping = std::thread::spawn(move || {
            std::thread::sleep(10 * SEAL_INTERVAL);
            // SAFETY: this is the whole mapping from above, and nothing uses it.
            unsafe { munmap(mapping as *mut _, 4096).unwrap() };
        });
        seal(&file).unwrap();
        unmapping.join().unwrap();
    }
}

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// A short file that is written to without a system call: it is mapped, and its page is there.
///
/// Only for a file in memory (tmpfs) that no one else writes or shortens.
#[derive(Debug)]
pub struct MappedFile {
    start: NonNull<u8>,
    bytes: usize,
}

impl MappedFile {
    /// Gives the file these bytes, all it will ever hold room for, and maps it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(file: &File, contents: &[u8]) -> io::Result<Self> {
        let bytes = contents.len().max(1);
        file.set_len(bytes as u64)?;
        // SAFETY: a new mapping, placed by the kernel; the descriptor is open.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        let mut mapped = Self { start, bytes };
        mapped.write(contents);
        Ok(mapped)
    }

    /// Writes at the file's beginning, as much as it has room for.
    pub fn write(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.bytes);
        // SAFETY: the mapping is `self.bytes` long, and lives as long as `self`; `bytes` is memory of
        // another kind, so that they do not overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr(), count) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_written_is_read_from_the_file_and_no_more_than_fits() {
        let path = std::env::temp_dir().join(format!("fumehood-mapped-{}", std::process::id()));
        let options = || {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
        };
        let file = options().unwrap();
        let mut mapped = MappedFile::new(&file, b"0000\n").unwrap();
        mapped.write(b"abcd\n and what has no room");
        let mut text = String::new();
        File::open(&path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "abcd\n");
    }
}

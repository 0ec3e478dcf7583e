use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// A short file that is written without a system call, through a mapping whose page is present.
///
/// Only for a file in memory (tmpfs) that no other process writes or truncates.
#[derive(Debug)]
pub struct MappedFile {
    start: NonNull<u8>,
    len: usize,
}

impl MappedFile {
    /// Writes these bytes to the file, whose size is fixed from then on, and maps it.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn new(file: &File, contents: &[u8]) -> io::Result<Self> {
        let len = contents.len().max(1);
        file.set_len(len as u64)?;
        // SAFETY: a new mapping, placed by the kernel; the descriptor is open.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
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
        let mut mapped = Self { start, len };
        mapped.write(contents);

        Ok(mapped)
    }

    /// Writes to the start of the file; bytes beyond its size are dropped.
    pub fn write(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.len);
        // SAFETY: the mapping is `self.len` bytes long, and lives as long as `self`; `bytes` is other
        // memory, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr(), count) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn writes_reach_the_file_and_excess_bytes_are_dropped() {
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
        mapped.write(b"abcd\n and excess bytes");
        let mut text = String::new();
        File::open(&path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "abcd\n");
    }
}

//! Disk space that is kept for writes which must succeed on a full disk, such as the revocation of a key.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The size of a complete reserve, in bytes.
const BYTES: u64 = 2 * 1024 * 1024;

/// What one write takes from it, in bytes: SQLite's index of its log (32 KiB), and some pages of the log.
const SLICE_BYTES: u64 = 128 * 1024;

/// A file beside the state that occupies space until it is needed.
///
/// While it is incomplete, only essential writes are allowed: otherwise ordinary ones would take the released space.
#[derive(Debug)]
pub(super) struct Reserve(PathBuf);

impl Reserve {
    /// Returns the reserve of a state, which may not exist yet.
    pub(super) fn of(state: &Path) -> Self {
        Self(state.with_extension("reserve"))
    }

    /// Returns whether the disk has space beside the reserve, after an attempt to complete the reserve.
    pub(super) fn ensure_complete(&self) -> bool {
        // A reserve that cannot be written for another reason says nothing about the space.
        let is_full = |error: io::Error| {
            let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            kinds.contains(&error.kind())
        };
        self.bytes() >= BYTES || !self.fill().is_err_and(is_full)
    }

    /// Releases a part of the reserve. Returns whether there was one.
    pub(super) fn release(&self) -> bool {
        let bytes = self.bytes();
        let shrink = || {
            let file = OpenOptions::new().write(true).open(&self.0)?;
            file.set_len(bytes.saturating_sub(SLICE_BYTES))
        };
        bytes > 0 && shrink().is_ok()
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |metadata| metadata.len())
    }

    /// Completes the reserve. It leaves as much space free as it takes, so that it does not fill the disk by itself.
    fn fill(&self) -> io::Result<()> {
        let file = open_private(&self.0)?;
        let disk = rustix::fs::fstatvfs(&file)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < 2 * BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }

        // Bytes other than zero, because some file systems do not store zeros.
        let slice = vec![0xff; SLICE_BYTES as usize];
        let mut written = self.bytes();
        while written < BYTES {
            file.write_all_at(&slice, written)?;
            written += SLICE_BYTES;
        }
        Ok(())
    }
}

/// Opens a file for this user only, and creates it if it does not exist.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

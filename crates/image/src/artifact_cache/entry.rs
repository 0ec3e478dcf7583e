//! One entry of a cache, held open.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, futimens, openat};
use rustix::io::Errno;

use crate::Error;
use crate::store::{IDENTITY_FILE, Identities, parse_identities};

/// The unit of `st_blocks` in bytes. It is independent of the file system's block size.
const BLOCK: u64 = 512;

/// The number of hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;

/// The kind of artifacts in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArtifactKind {
    Template,
    HotImage,
    Layer,
    SavedState,
}

/// Returns whether this can be the name of an entry.
pub(crate) fn is_digest(name: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.len() == DIGITS && name.bytes().all(digit)
}

/// The open directory of one entry. All files read through it belong to the same entry, even if another entry
/// takes its name in the meantime.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    name: String,
    kind: ArtifactKind,
    path: PathBuf,
    handle: File,
}

impl CacheEntry {
    /// Opens the directory. Returns `None` if it does not exist.
    pub(crate) fn open(root: &Path, name: &str, kind: ArtifactKind) -> Result<Option<Self>, Error> {
        let path = root.join(name);
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path);

        match opened {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(e) => Err(Error::io("open", &path)(e)),
            Ok(handle) => Ok(Some(Self {
                name: name.to_owned(),
                kind,
                path,
                handle,
            })),
        }
    }

    /// Duplicates the handle.
    pub(crate) fn reopen(&self) -> Result<Self, Error> {
        Ok(Self {
            name: self.name.clone(),
            kind: self.kind,
            path: self.path.clone(),
            handle: self
                .handle
                .try_clone()
                .map_err(Error::io("open", &self.path))?,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens one of the entry's files for reading. A missing file is damage; a file that cannot be opened for
    /// a temporary reason is not.
    pub(crate) fn open_file(&self, name: &str) -> Result<File, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(file) => Ok(file.into()),
            Err(e @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                Err(self.damaged(name, e.to_string()))
            }
            Err(e) => Err(Error::io("open", self.path.join(name))(e.into())),
        }
    }

    /// Reads all of a small file.
    pub(crate) fn read_file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut contents = Vec::new();
        match self.open_file(name)?.read_to_end(&mut contents) {
            Err(e) if e.kind() == ErrorKind::IsADirectory => Err(self.damaged(name, e.to_string())),
            Err(e) => Err(Error::io("read", self.path.join(name))(e)),
            Ok(_) => Ok(contents),
        }
    }

    /// Returns the recorded identities of the files. They are empty if the record cannot be read, which only
    /// costs hashing.
    pub(crate) fn identities(&self) -> Identities {
        let text = self.read_file(IDENTITY_FILE);
        text.map(|text| parse_identities(&text)).unwrap_or_default()
    }

    pub(crate) fn damaged(&self, part: &str, reason: String) -> Error {
        let (part, path) = (part.to_owned(), self.path.join(part));
        match self.kind {
            ArtifactKind::Template => Error::DamagedTemplate {
                key: self.name.clone(),
                part,
                path,
                reason,
            },
            ArtifactKind::HotImage => Error::DamagedHotImage { part, path, reason },
            ArtifactKind::Layer => Error::DamagedLayer {
                digest: self.name.clone(),
                part,
                path,
                reason,
            },
            ArtifactKind::SavedState => Error::DamagedState {
                id: self.name.clone(),
                part,
                path,
                reason,
            },
        }
    }

    /// Returns whether the entry's name still refers to it.
    pub(crate) fn is_current(&self) -> bool {
        let (Ok(there), Ok(here)) = (fs::metadata(&self.path), self.handle.metadata()) else {
            return false;
        };
        (there.dev(), there.ino()) == (here.dev(), here.ino())
    }

    /// Returns the time of the last use. It is stored as the directory's mtime, because the files' own times
    /// are part of their identities.
    pub(crate) fn last_used(&self) -> SystemTime {
        let metadata = self.handle.metadata();
        metadata.and_then(|m| m.modified()).unwrap_or(UNIX_EPOCH)
    }

    /// Records a use at this time. The time is set explicitly because the kernel's own timestamps advance in
    /// steps of some milliseconds.
    pub(crate) fn mark_used(&self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: since.subsec_nanos().into(),
            },
        };

        if let Err(error) = futimens(&self.handle, &times) {
            tracing::debug!(%error, path = %self.path.display(), "cannot record a use");
        }
    }

    /// Returns the entry's size on disk.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_on_disk(&self.path)
    }
}

/// Returns the size on disk of a file, or of a directory with its files. Unreadable files count as zero.
pub(crate) fn bytes_on_disk(path: &Path) -> u64 {
    let of = |path: &Path| fs::symlink_metadata(path).map_or(0, |m| m.blocks() * BLOCK);
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    of(path) + inside.map(|entry| of(&entry.path())).sum::<u64>()
}

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, futimens, openat};
use rustix::io::Errno;

use super::TemplateKey;
use crate::Error;

/// A block as `stat` counts them, in bytes, whatever those of the file system.
const BLOCK: u64 = 512;

/// The directory of one template, held open: what is read by way of it belongs together, even when
/// another template takes its name meanwhile.
#[derive(Debug)]
pub(super) struct Place {
    key: TemplateKey,
    path: PathBuf,
    handle: File,
}

impl Place {
    /// Opens the directory; `None` when there is none.
    pub(super) fn open(templates: &Path, key: &TemplateKey) -> Result<Option<Self>, Error> {
        let path = templates.join(key.as_str());
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
                key: key.clone(),
                path,
                handle,
            })),
        }
    }

    pub(super) fn key(&self) -> &TemplateKey {
        &self.key
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the template for reading. One that is not there is damage; one that cannot be
    /// opened for a reason of the moment is not.
    pub(super) fn part(&self, name: &str) -> Result<File, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(file) => Ok(file.into()),
            Err(e @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                Err(self.damaged(name, e.to_string()))
            }
            Err(e) => Err(Error::io("open", self.path.join(name))(e.into())),
        }
    }

    /// All of a small file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut contents = Vec::new();
        match self.part(name)?.read_to_end(&mut contents) {
            Err(e) if e.kind() == ErrorKind::IsADirectory => Err(self.damaged(name, e.to_string())),
            Err(e) => Err(Error::io("read", self.path.join(name))(e)),
            Ok(_) => Ok(contents),
        }
    }

    pub(super) fn damaged(&self, part: &str, why: String) -> Error {
        Error::DamagedTemplate {
            key: self.key.to_string(),
            part: part.to_owned(),
            path: self.path.join(part),
            why,
        }
    }

    /// Whether its name still leads to it.
    pub(super) fn is_still_there(&self) -> bool {
        let (Ok(there), Ok(here)) = (fs::metadata(&self.path), self.handle.metadata()) else {
            return false;
        };
        (there.dev(), there.ino()) == (here.dev(), here.ino())
    }

    /// When it was last opened: the directory's own time, since the times of the files in it are how they
    /// are known again.
    pub(super) fn last_used(&self) -> SystemTime {
        let metadata = self.handle.metadata();
        metadata.and_then(|m| m.modified()).unwrap_or(UNIX_EPOCH)
    }

    /// Says that it was used at this time. The time is given in full, because the kernel's own comes in
    /// steps of some milliseconds.
    pub(super) fn mark_used(&self, now: SystemTime) {
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
            tracing::debug!(%error, path = %self.path.display(), "cannot note a template's use");
        }
    }

    /// What it takes on disk.
    pub(super) fn bytes(&self) -> u64 {
        bytes_on_disk(&self.path)
    }
}

/// What a file, or a directory with the files in it, takes on disk; what cannot be seen counts nothing.
pub(super) fn bytes_on_disk(path: &Path) -> u64 {
    let of = |path: &Path| fs::symlink_metadata(path).map_or(0, |m| m.blocks() * BLOCK);
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    of(path) + inside.map(|entry| of(&entry.path())).sum::<u64>()
}

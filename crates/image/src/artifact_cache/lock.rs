//! Locks on files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Error;

/// The store's templates are locked for a few renames and removals: milliseconds. Whoever has them for
/// longer hangs.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a lock that another has.
const LOOK: Duration = Duration::from_millis(2);

/// The file in a directory of unfinished work that is locked while its maker lives.
const MAKERS_LOCK: &str = "lock";

/// A lock on a file, which falls with its holder, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, waiting for whoever has it.
    pub(crate) fn wait(path: &Path) -> Result<Self, Error> {
        Self::wait_for(path, LIMIT)
    }

    /// Takes the lock unless another has it.
    pub(crate) fn attempt(path: &Path) -> Result<Option<Self>, Error> {
        let file = open(path, true)?;
        Ok(take(&file, path)?.then_some(Self { _file: file }))
    }

    fn wait_for(path: &Path, timeout: Duration) -> Result<Self, Error> {
        let file = open(path, true)?;
        let begun = Instant::now();

        while !take(&file, path)? {
            if begun.elapsed() > timeout {
                return Err(Error::Locked {
                    path: path.to_path_buf(),
                    timeout,
                });
            }

            thread::sleep(LOOK);
        }

        Ok(Self { _file: file })
    }
}

/// Whether anybody holds the lock; nobody does when there is no such file.
fn is_held(path: &Path) -> bool {
    open(path, false).is_ok_and(|file| !take(&file, path).unwrap_or(false))
}

/// The maker's lock in a directory of unfinished work.
pub(super) fn maker_lock_path(staging: &Path) -> PathBuf {
    staging.join(MAKERS_LOCK)
}

/// Whether the process that makes something in this directory still runs.
pub(super) fn is_maker_alive(staging: &Path) -> bool {
    is_held(&maker_lock_path(staging))
}

/// Open for writing, without which network file systems grant no exclusive lock.
fn open(path: &Path, create: bool) -> Result<File, Error> {
    OpenOptions::new()
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("open", path))
}

fn take(file: &File, path: &Path) -> Result<bool, Error> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(Error::io("lock", path)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_until_it_is_dropped_and_the_wait_for_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(!is_held(&path));
        let lock = Lock::attempt(&path).unwrap().unwrap();
        assert!(is_held(&path) && Lock::attempt(&path).unwrap().is_none());
        let error = Lock::wait_for(&path, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        drop(lock);
        assert!(!is_held(&path));
        Lock::wait(&path).unwrap();
    }
}

//! File locks.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Error;

/// How long to wait for a lock. The cache is locked for milliseconds at a time, for a few renames and
/// removals, so a process that holds it longer hangs.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The time between two attempts to take a lock that another process holds.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The file in a staging directory that stays locked while its owner runs.
const OWNER_LOCK: &str = "lock";

/// A lock on a file. The kernel releases it when its holder ends in any way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, waiting for another holder.
    pub(crate) fn wait(path: &Path) -> Result<Self, Error> {
        Self::wait_for(path, TIMEOUT)
    }

    /// Takes the lock, or returns `None` if another holder has it.
    pub(crate) fn attempt(path: &Path) -> Result<Option<Self>, Error> {
        let file = open(path, true)?;
        Ok(take(&file, path)?.then_some(Self { _file: file }))
    }

    fn wait_for(path: &Path, timeout: Duration) -> Result<Self, Error> {
        let file = open(path, true)?;
        let start = Instant::now();

        while !take(&file, path)? {
            if start.elapsed() > timeout {
                return Err(Error::Locked {
                    path: path.to_path_buf(),
                    timeout,
                });
            }

            thread::sleep(POLL_INTERVAL);
        }

        Ok(Self { _file: file })
    }
}

/// Returns whether the lock is held. A missing file is not locked.
fn is_held(path: &Path) -> bool {
    open(path, false).is_ok_and(|file| !take(&file, path).unwrap_or(false))
}

/// Returns the path of the owner's lock in a staging directory.
pub(super) fn owner_lock_path(staging: &Path) -> PathBuf {
    staging.join(OWNER_LOCK)
}

/// Returns whether the owner of a staging directory is running.
pub(super) fn is_owner_alive(staging: &Path) -> bool {
    is_held(&owner_lock_path(staging))
}

/// Opens the file for writing: without that, network file systems grant no exclusive lock.
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
    fn a_lock_excludes_others_until_dropped_and_waiting_times_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(!is_held(&path));
        let lock = Lock::attempt(&path).unwrap().unwrap();
        assert!(is_held(&path) && Lock::attempt(&path).unwrap().is_none());
        let error = Lock::wait_for(&path, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        drop(lock);
        // A process that another test starts just now has the file until it executes its program.
        Lock::wait(&path).unwrap();
    }
}

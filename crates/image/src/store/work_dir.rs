//! Directories that exist only while the process that created them runs.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// A directory for unfinished work. A lock on the file beside it shows that its owner is running. The kernel
/// releases the lock when the process ends in any way; the next sweep then removes the directory.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Creates a directory in `parent`.
    pub(crate) fn create(parent: &Path) -> Result<Self, Error> {
        let prefix = format!("work-{}-", std::process::id());
        let lock_file = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".lock")
            .tempfile_in(parent);

        let (lock, lock_path) = lock_file
            .map_err(Error::io("create a work directory in", parent))?
            .keep()
            .map_err(|e| Error::io("keep a lock in", parent)(e.error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| Error::io("lock", &lock_path)(e.into()))?;

        let path = lock_path.with_extension("");
        fs::create_dir(&path).map_err(Error::io("create", &path))?;
        let mode = Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode).map_err(Error::io("create", &path))?;

        Ok(Self {
            path,
            lock_path,
            _lock: lock,
        })
    }

    /// Returns the directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove(&self.path, &self.lock_path);
    }
}

/// Removes the work directories in `parent` whose owners have ended. The caller must hold the store's build
/// lock. Work directories are created only under that lock, so the sweep never sees one between the creation
/// of its lock file and its locking.
///
/// Returns the number of removed directories.
pub(crate) fn sweep(parent: &Path) -> Result<usize, Error> {
    let mut removed = 0;
    for entry in fs::read_dir(parent).map_err(Error::io("read", parent))? {
        let path = entry.map_err(Error::io("read", parent))?.path();
        // Each of the two may exist without the other.
        let (directory, lock_path) = if path.extension().is_some_and(|e| e == "lock") {
            (path.with_extension(""), path)
        } else {
            let lock_path = path.with_extension("lock");
            (path, lock_path)
        };

        if !is_locked(&lock_path) {
            tracing::debug!(path = %directory.display(), "removing the directory of a dead build");
            remove(&directory, &lock_path);
            removed += 1;
        }
    }

    Ok(removed)
}

/// Returns the size on disk of everything in a directory. What cannot be read counts as nothing.
pub(crate) fn bytes(directory: &Path) -> u64 {
    /// The unit of a file's blocks on every Linux.
    const BLOCK: u64 = 512;

    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| {
        let Ok(metadata) = entry.metadata() else {
            return 0;
        };
        let inside = if metadata.is_dir() {
            bytes(&entry.path())
        } else {
            0
        };
        metadata.blocks() * BLOCK + inside
    });
    sizes.sum()
}

fn is_locked(lock_path: &Path) -> bool {
    let Ok(lock) = OpenOptions::new().read(true).open(lock_path) else {
        return false;
    };
    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Removes the lock file last: if this is interrupted, the next sweep finds both again.
fn remove(directory: &Path, lock_path: &Path) {
    let ignore_missing = |result: std::io::Result<()>| match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };

    let removed = ignore_missing(fs::remove_dir_all(directory))
        .and_then(|()| ignore_missing(fs::remove_file(lock_path)));
    if let Err(error) = removed {
        tracing::warn!(path = %directory.display(), %error, "cannot remove a work directory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_removes_only_directories_without_owner() {
        let parent = tempfile::tempdir().unwrap();
        let owned = WorkDir::create(parent.path()).unwrap();
        fs::write(owned.path().join("half"), "made").unwrap();
        let abandoned = parent.path().join("work-1-dead");
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.with_extension("lock"), "").unwrap();
        let unlocked = parent.path().join("work-1-lost");
        fs::create_dir_all(unlocked.join("deep/er")).unwrap();
        sweep(parent.path()).unwrap();
        assert!(owned.path().join("half").exists());
        assert!(
            !abandoned.exists() && !abandoned.with_extension("lock").exists() && !unlocked.exists()
        );
        drop(owned);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}

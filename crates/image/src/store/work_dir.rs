//! Directories that exist only while their maker lives.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// A directory for unfinished work. A lock on the file beside it says that its maker lives: it falls with
/// the process, however that ends, and then the next sweep takes the directory away.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes a directory in `parent`.
    pub(crate) fn create(parent: &Path) -> Result<Self, Error> {
        let prefix = format!("work-{}-", std::process::id());
        let made = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".lock")
            .tempfile_in(parent);

        let (lock, lock_path) = made
            .map_err(Error::io("make a work directory in", parent))?
            .keep()
            .map_err(|e| Error::io("keep a lock in", parent)(e.error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| Error::io("lock", &lock_path)(e.into()))?;
        let path = lock_path.with_extension("");
        fs::create_dir(&path).map_err(Error::io("make", &path))?;

        Ok(Self {
            path,
            lock_path,
            _lock: lock,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove(&self.path, &self.lock_path);
    }
}

/// Removes the work directories in `parent` whose makers are gone. The caller holds the lock under which
/// alone they are made, so that none is seen between its lock file and its lock.
pub(crate) fn sweep(parent: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(parent).map_err(Error::io("read", parent))? {
        let path = entry.map_err(Error::io("read", parent))?.path();
        let (directory, lock_path) = if path.extension().is_some_and(|e| e == "lock") {
            (path.with_extension(""), path)
        } else {
            let lock_path = path.with_extension("lock");
            (path, lock_path)
        };

        if !is_locked(&lock_path) {
            tracing::debug!(path = %directory.display(), "removing a dead build's directory");
            remove(&directory, &lock_path);
        }
    }

    Ok(())
}

fn is_locked(lock_path: &Path) -> bool {
    let Ok(lock) = OpenOptions::new().read(true).open(lock_path) else {
        return false;
    };
    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// The lock file goes last: if this is cut short, the next sweep finds both again.
fn remove(directory: &Path, lock_path: &Path) {
    let gone = |result: std::io::Result<()>| match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };

    match gone(fs::remove_dir_all(directory)).and_then(|()| gone(fs::remove_file(lock_path))) {
        Ok(()) => {}
        Err(error) => tracing::warn!(path = %directory.display(), %error, "cannot remove"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_the_dead_and_leaves_the_living() {
        let parent = tempfile::tempdir().unwrap();
        let living = WorkDir::create(parent.path()).unwrap();
        fs::write(living.path().join("half"), "made").unwrap();
        let dead = parent.path().join("work-1-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.with_extension("lock"), "").unwrap();
        let lost = parent.path().join("work-1-lost");
        fs::create_dir_all(lost.join("deep/er")).unwrap();
        sweep(parent.path()).unwrap();
        assert!(living.path().join("half").exists());
        assert!(!dead.exists() && !dead.with_extension("lock").exists() && !lost.exists());
        drop(living);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}

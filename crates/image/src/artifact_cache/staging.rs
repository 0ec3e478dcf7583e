//! Staging directories: entries that are being created.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cache::{ArtifactCache, STAGING_EXTENSION, private_directory, remove_all};
use super::entry::CacheEntry;
use super::lock::{Lock, owner_lock_path};
use crate::Error;
use crate::store::{Identities, Identity, sync_directory};

/// A staging directory. Only one exists for each name, and no reader sees its contents before
/// [`install`](Self::install). Dropping it removes it.
#[derive(Debug)]
pub(crate) struct StagingDir {
    cache: ArtifactCache,
    path: PathBuf,
    is_installed: bool,
    _lock: Lock,
}

impl ArtifactCache {
    /// Starts creating an entry with this name. Returns `None` if the entry is usable already, or if another
    /// thread or process is creating it. Leftovers of dead processes are swept.
    pub(crate) fn create(
        &self,
        name: &str,
        is_usable: impl FnOnce() -> bool,
    ) -> Result<Option<StagingDir>, Error> {
        // The lock is held until the staging directory has its own lock.
        self.create_root()?;
        let lock = self.lock()?;
        self.sweep(&lock)?;

        if is_usable() {
            return Ok(None);
        }

        let staging = self.path(name).with_extension(STAGING_EXTENSION);
        match private_directory().create(&staging) {
            // The sweep left this directory, so its owner is running.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(Error::io("create", &staging)(e)),
            Ok(()) => StagingDir::new(self, staging),
        }
    }
}

impl StagingDir {
    /// Locks an empty directory that was just created under the cache's lock.
    fn new(cache: &ArtifactCache, path: PathBuf) -> Result<Option<Self>, Error> {
        let lock = Lock::attempt(&owner_lock_path(&path))?;
        Ok(lock.map(|lock| Self {
            cache: cache.clone(),
            path,
            is_installed: false,
            _lock: lock,
        }))
    }

    /// Returns the directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn cache(&self) -> &ArtifactCache {
        &self.cache
    }

    /// Creates one file, readable only by its owner, and flushes it to the disk.
    pub(crate) fn write_file<T>(
        &self,
        name: &str,
        identities: &mut Identities,
        fill: impl FnOnce(&mut File) -> std::io::Result<T>,
    ) -> Result<T, Error> {
        let path = self.path.join(name);
        self.write_unflushed_file(name, identities, |file| {
            let filled = fill(file).map_err(Error::io("write", &path))?;
            file.sync_all().map_err(Error::io("flush", &path))?;
            Ok(filled)
        })
    }

    /// As [`write_file`](Self::write_file), for contents that need not survive a crash of the host.
    pub(crate) fn write_unflushed_file<T>(
        &self,
        name: &str,
        identities: &mut Identities,
        fill: impl FnOnce(&mut File) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = self.path.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("create", &path))?;

        let filled = fill(&mut file)?;
        identities.insert(name.to_owned(), Identity::of(&file, &path)?);

        Ok(filled)
    }

    /// Renames the directory to `name`, replacing a damaged entry. Returns the result of `load`, which runs
    /// before anyone can prune the entry.
    pub(crate) fn install<T>(
        &mut self,
        name: &str,
        load: impl FnOnce(&CacheEntry) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Replace a damaged entry.
        let lock = self.cache.lock()?;
        let path = self.cache.path(name);
        if path.exists() {
            self.cache.remove(name, &lock)?;
        }

        fs::rename(&self.path, &path).map_err(Error::io("move the entry to", &path))?;
        self.is_installed = true;
        remove_owner_lock(&path);
        sync_directory(self.cache.root())?;

        // Load it while the lock is still held.
        let entry = self.cache.entry(name)?.ok_or_else(|| Error::Inconsistent {
            item: "directory",
            reason: format!("{} does not exist", path.display()),
        })?;
        entry.mark_used(SystemTime::now());

        load(&entry)
    }
}

impl Drop for StagingDir {
    /// Takes the cache's lock: otherwise another process could take the name between two steps of the
    /// removal.
    fn drop(&mut self) {
        if self.is_installed {
            return;
        }

        let removed = self.cache.lock().and_then(|_lock| remove_all(&self.path));
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove a staging directory; a later sweep removes it");
        }
    }
}

/// In a finished entry the lock has no meaning, so a failure is harmless.
fn remove_owner_lock(finished: &Path) {
    if let Err(error) = fs::remove_file(owner_lock_path(finished)) {
        tracing::debug!(%error, "cannot remove the lock of a finished entry");
    }
}

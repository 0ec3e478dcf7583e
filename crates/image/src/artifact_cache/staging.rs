//! Entries in the making.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cache::{ArtifactCache, STAGING_EXTENSION, private_directory, remove_all};
use super::entry::CacheEntry;
use super::lock::{Lock, maker_lock_path};
use crate::Error;
use crate::store::{Identities, Identity, sync_directory};

/// Something in the making. Nobody else makes it meanwhile, and nobody finds it before it is
/// [installed](Self::install). Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct StagingDir {
    cache: ArtifactCache,
    path: PathBuf,
    is_installed: bool,
    _lock: Lock,
}

impl ArtifactCache {
    /// Begins to make a thing under this name, unless it is usable or another thread or process makes it. What dead
    /// makers left is swept.
    pub(crate) fn create(
        &self,
        name: &str,
        is_usable: impl FnOnce() -> bool,
    ) -> Result<Option<StagingDir>, Error> {
        self.create_root()?;
        let lock = self.lock()?;
        self.sweep(&lock)?;

        if is_usable() {
            return Ok(None);
        }

        let staging = self.path(name).with_extension(STAGING_EXTENSION);
        match private_directory().create(&staging) {
            // The sweep left it: its maker lives.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(Error::io("make", &staging)(e)),
            Ok(()) => StagingDir::new(self, staging),
        }
    }
}

impl StagingDir {
    /// For an empty directory that was just made under the shelf's lock.
    fn new(cache: &ArtifactCache, path: PathBuf) -> Result<Option<Self>, Error> {
        let lock = Lock::attempt(&maker_lock_path(&path))?;
        Ok(lock.map(|lock| Self {
            cache: cache.clone(),
            path,
            is_installed: false,
            _lock: lock,
        }))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn cache(&self) -> &ArtifactCache {
        &self.cache
    }

    /// Makes one file, for the owner's eyes only, so that it outlasts a power cut.
    pub(crate) fn part<T>(
        &self,
        name: &str,
        identities: &mut Identities,
        fill: impl FnOnce(&mut File) -> std::io::Result<T>,
    ) -> Result<T, Error> {
        let path = self.path.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("make", &path))?;

        let filled = fill(&mut file).map_err(Error::io("write", &path))?;
        file.sync_all().map_err(Error::io("write out", &path))?;
        identities.insert(name.to_owned(), Identity::of(&file, &path)?);

        Ok(filled)
    }

    /// Gives the directory its name, in place of one that was damaged, and returns what `load` makes of it
    /// before anyone can prune it.
    pub(crate) fn install<T>(
        &mut self,
        name: &str,
        load: impl FnOnce(&CacheEntry) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lock = self.cache.lock()?;
        let path = self.cache.path(name);
        if path.exists() {
            self.cache.remove(name, &lock)?;
        }

        fs::rename(&self.path, &path).map_err(Error::io("move what was made to", &path))?;
        self.is_installed = true;
        remove_makers_lock(&path);
        sync_directory(self.cache.root())?;
        let entry = self.cache.entry(name)?;
        let entry = entry.ok_or_else(|| Error::Inconsistent {
            item: "directory",
            reason: format!("{} is not there", path.display()),
        })?;
        entry.mark_used(SystemTime::now());

        load(&entry)
    }
}

impl Drop for StagingDir {
    /// Under the shelf's lock, for else another maker could take the name between two steps of the removal.
    fn drop(&mut self) {
        if self.is_installed {
            return;
        }

        let removed = self.cache.lock().and_then(|_lock| remove_all(&self.path));
        if let Err(error) = removed {
            tracing::warn!(%error, "unfinished work stays until something else is begun");
        }
    }
}

/// In what is finished it means nothing, so it may also stay.
fn remove_makers_lock(finished: &Path) {
    if let Err(error) = fs::remove_file(maker_lock_path(finished)) {
        tracing::debug!(%error, "cannot remove a maker's lock");
    }
}

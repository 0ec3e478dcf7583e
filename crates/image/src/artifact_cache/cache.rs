//! The directory of a cache and the changes under its lock.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::entry::{ArtifactKind, CacheEntry, bytes_on_disk, is_digest};
use super::lock::{Lock, is_owner_alive};
use super::report::PruneReport;
use crate::Error;
use crate::store::Store;

/// The extensions of directories of unfinished entries, and of entries that are being removed.
pub(super) const STAGING_EXTENSION: &str = "new";
const REMOVED_EXTENSION: &str = "gone";

/// A cache directory. Any number of threads and processes may use it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArtifactCache {
    store: Store,
    root: PathBuf,
    kind: ArtifactKind,
}

impl ArtifactCache {
    pub(crate) fn new(store: &Store, directory: &str, kind: ArtifactKind) -> Self {
        Self {
            store: store.clone(),
            root: store.root().join(directory),
            kind,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Opens an entry. Returns `None` if it does not exist.
    pub(crate) fn entry(&self, name: &str) -> Result<Option<CacheEntry>, Error> {
        CacheEntry::open(&self.root, name, self.kind)
    }

    /// Opens all entries, sorted by name.
    pub(crate) fn entries(&self) -> Result<Vec<CacheEntry>, Error> {
        let listing = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", &self.root))?,
        };

        let mut entries = Vec::new();
        for item in listing {
            let name = item.map_err(Error::io("read", &self.root))?.file_name();
            let Some(name) = name.to_str().filter(|name| is_digest(name)) else {
                continue;
            };

            match self.entry(name) {
                Ok(entry) => entries.extend(entry),
                Err(error) => tracing::warn!(%error, "cannot open an entry of the store"),
            }
        }

        entries.sort_by(|a, b| a.name().cmp(b.name()));

        Ok(entries)
    }

    /// Returns an error if the cache's disk has less free space than this. It may be another disk than the
    /// store's.
    pub(crate) fn require_space(&self, bytes: u64) -> Result<(), Error> {
        self.store.require_space_at(&self.root, bytes)
    }

    /// Takes the lock that every rename and removal in this directory needs.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        Lock::wait(&self.root.join("lock"))
    }

    /// Removes the leftovers of processes that ended while they created or removed an entry.
    pub(crate) fn sweep(&self, _lock: &Lock) -> Result<PruneReport, Error> {
        let mut report = PruneReport::default();
        for path in self.leftovers()? {
            tracing::debug!(path = %path.display(), "removing leftovers of a dead process");
            report.add(bytes_on_disk(&path), remove_all(&path));
        }

        Ok(report)
    }

    /// Returns whether there is anything to sweep.
    pub(crate) fn has_leftovers(&self) -> bool {
        self.leftovers().is_ok_and(|dead| !dead.is_empty())
    }

    /// Returns the bytes on disk that a sweep would free.
    pub(crate) fn leftover_bytes(&self) -> u64 {
        let leftovers = self.leftovers().unwrap_or_default();
        leftovers.iter().map(|path| bytes_on_disk(path)).sum()
    }

    /// Sweeps if there is anything to sweep.
    pub(crate) fn remove_leftovers(&self) -> Result<PruneReport, Error> {
        if self.leftovers()?.is_empty() {
            return Ok(PruneReport::default());
        }
        let lock = self.lock()?;
        self.sweep(&lock)
    }

    /// Returns the directories that dead processes have left.
    fn leftovers(&self) -> Result<Vec<PathBuf>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", &self.root))?,
        };

        let mut dead = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("read", &self.root))?.path();
            let is_dead = match path.extension().and_then(|e| e.to_str()) {
                Some(REMOVED_EXTENSION) => true,
                Some(STAGING_EXTENSION) => !is_owner_alive(&path),
                _ => false,
            };
            if is_dead {
                dead.push(path);
            }
        }

        Ok(dead)
    }

    /// Removes an entry and returns the bytes it took on disk. A rename first takes its name away atomically.
    pub(crate) fn remove(&self, name: &str, _lock: &Lock) -> Result<u64, Error> {
        let path = self.path(name);
        let gone = path.with_extension(REMOVED_EXTENSION);
        // A removal that was interrupted may have left this name.
        if gone.exists() {
            remove_all(&gone)?;
        }

        // From the rename on, no reader finds the entry.
        let bytes = bytes_on_disk(&path);
        fs::rename(&path, &gone).map_err(Error::io("remove", &path))?;
        remove_all(&gone)?;

        Ok(bytes)
    }

    /// Removes a damaged entry, unless another one has replaced it, and logs the reason.
    pub(crate) fn discard(&self, entry: &CacheEntry, reason: &Error) {
        tracing::warn!(%reason, "removing a damaged entry");

        let removed = self.lock().and_then(|lock| {
            if entry.is_current() {
                self.remove(entry.name(), &lock)?;
            }

            Ok(())
        });

        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove a damaged entry");
        }
    }

    /// Creates the directory with access only for its owner, since it holds contents of guests' memory and
    /// disks.
    pub(crate) fn create_root(&self) -> Result<(), Error> {
        self.store.create_directory(self.store.root())?;
        match private_directory().create(&self.root) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                Err(Error::io("create", &self.root)(e))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn private_directory() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

pub(super) fn remove_all(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(Error::io("remove", path))
}

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::lock::{self, Lock};
use super::place::Place;
use super::{Shelf, remove_all};
use crate::Error;
use crate::identity::{Identities, Identity};
use crate::store::sync_directory;

/// The file in a directory of unfinished work that is locked while its maker lives.
const MAKERS_LOCK: &str = "lock";

/// Something in the making. Nobody else makes it meanwhile, and nobody finds it before it is
/// [installed](Self::install). Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Work {
    shelf: Shelf,
    path: PathBuf,
    is_installed: bool,
    _lock: Lock,
}

/// Whether somebody makes something in this directory.
pub(super) fn is_alive(work: &Path) -> bool {
    lock::is_held(&work.join(MAKERS_LOCK))
}

impl Work {
    /// For an empty directory that was just made under the shelf's lock.
    pub(super) fn new(shelf: &Shelf, path: PathBuf) -> Result<Option<Self>, Error> {
        let lock = Lock::attempt(&path.join(MAKERS_LOCK))?;
        Ok(lock.map(|lock| Self {
            shelf: shelf.clone(),
            path,
            is_installed: false,
            _lock: lock,
        }))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
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
        load: impl FnOnce(&Place) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lock = self.shelf.lock()?;
        let path = self.shelf.path(name);
        if path.exists() {
            self.shelf.remove(name, &lock)?;
        }
        fs::rename(&self.path, &path).map_err(Error::io("move what was made to", &path))?;
        self.is_installed = true;
        remove_makers_lock(&path);
        sync_directory(self.shelf.root())?;
        let place = self.shelf.place(name)?;
        let place = place.ok_or_else(|| Error::Inconsistent {
            what: "directory",
            why: format!("{} is not there", path.display()),
        })?;
        place.mark_used(SystemTime::now());
        load(&place)
    }
}

impl Drop for Work {
    /// Under the shelf's lock, for else another maker could take the name between two steps of the removal.
    fn drop(&mut self) {
        if self.is_installed {
            return;
        }
        let removed = self.shelf.lock().and_then(|_lock| remove_all(&self.path));
        if let Err(error) = removed {
            tracing::warn!(%error, "unfinished work stays until something else is begun");
        }
    }
}

/// In what is finished it means nothing, so it may also stay.
fn remove_makers_lock(finished: &Path) {
    if let Err(error) = fs::remove_file(finished.join(MAKERS_LOCK)) {
        tracing::debug!(%error, "cannot remove a maker's lock");
    }
}

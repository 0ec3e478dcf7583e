//! Things that are kept in a directory of the store, each in a directory of its own under a name of 64 hexadecimal
//! digits: they appear whole, disappear whole, and the least recently used ones go first.
//!
//! `NAME.new` is one in the making, alive while the lock inside is held; `NAME.gone` is one on its way out. Both are
//! swept. Whoever renames or removes anything there holds `lock` for that moment; whoever only opens something takes
//! no lock.

mod lock;
mod place;
mod prune;
mod work;

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub(crate) use self::lock::Lock;
pub(crate) use self::place::Place;
use self::place::bytes_on_disk;
pub use self::prune::PruneReport;
pub(crate) use self::work::Work;
use crate::{Error, Store};

/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;
/// The endings of the directories of things in the making, and on their way out.
const NEW: &str = "new";
const GONE: &str = "gone";

/// What lies on a shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Template,
    Layer,
}

/// One directory of such things. Any number of threads and processes may use it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shelf {
    store: Store,
    root: PathBuf,
    kind: Kind,
}

/// Whether something may lie under this name.
pub(crate) fn is_name(name: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.len() == DIGITS && name.bytes().all(digit)
}

impl Shelf {
    pub(crate) fn new(store: &Store, directory: &str, kind: Kind) -> Self {
        Self {
            store: store.clone(),
            root: store.root().join(directory),
            kind,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where a thing is made.
    fn work(&self, name: &str) -> PathBuf {
        self.path(name).with_extension(NEW)
    }

    /// Opens a thing's directory; `None` when there is none.
    pub(crate) fn place(&self, name: &str) -> Result<Option<Place>, Error> {
        Place::open(&self.root, name, self.kind)
    }

    /// The directories of all things, by name.
    pub(crate) fn places(&self) -> Result<Vec<Place>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", &self.root))?,
        };
        let mut places = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io("read", &self.root))?.file_name();
            let Some(name) = name.to_str().filter(|name| is_name(name)) else {
                continue;
            };
            match self.place(name) {
                Ok(place) => places.extend(place),
                Err(error) => tracing::warn!(%error, "something in the store cannot be looked at"),
            }
        }
        places.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(places)
    }

    /// Begins to make a thing under this name, unless it is usable or another thread or process makes it. What dead
    /// makers left is swept.
    pub(crate) fn create(
        &self,
        name: &str,
        is_usable: impl FnOnce() -> bool,
    ) -> Result<Option<Work>, Error> {
        self.make_root()?;
        let lock = self.lock()?;
        self.sweep(&lock)?;
        if is_usable() {
            return Ok(None);
        }
        let work = self.work(name);
        match private_directory().create(&work) {
            // The sweep left it: its maker lives.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(Error::io("make", &work)(e)),
            Ok(()) => Work::new(self, work),
        }
    }

    /// Refuses to begin to write what there is no room for. The shelf may lie on a disk of its own.
    pub(crate) fn need_room(&self, bytes: u64) -> Result<(), Error> {
        self.store.need_room_at(&self.root, bytes)
    }

    /// Without it, nothing here is renamed or removed.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        Lock::wait(&self.root.join("lock"))
    }

    /// Removes what a process left that ended in the midst of making or removing something.
    pub(crate) fn sweep(&self, _lock: &Lock) -> Result<PruneReport, Error> {
        let mut report = PruneReport::default();
        let entries = fs::read_dir(&self.root).map_err(Error::io("read", &self.root))?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", &self.root))?.path();
            let is_dead = match path.extension().and_then(|e| e.to_str()) {
                Some(GONE) => true,
                Some(NEW) => !work::is_alive(&path),
                _ => false,
            };
            if is_dead {
                tracing::debug!(path = %path.display(), "removing what a dead process left");
                report.add(bytes_on_disk(&path), remove_all(&path));
            }
        }
        Ok(report)
    }

    /// Removes a thing and returns the bytes it took. Its name goes first, in one step.
    pub(crate) fn remove(&self, name: &str, _lock: &Lock) -> Result<u64, Error> {
        let (path, gone) = (self.path(name), self.path(name).with_extension(GONE));
        if gone.exists() {
            remove_all(&gone)?;
        }
        let bytes = bytes_on_disk(&path);
        fs::rename(&path, &gone).map_err(Error::io("remove", &path))?;
        remove_all(&gone)?;
        Ok(bytes)
    }

    pub(crate) fn throw_away(&self, place: &Place, why: &Error) {
        tracing::warn!(%why, "it is thrown away");
        let removed = self.lock().and_then(|lock| match place.is_still_there() {
            true => self.remove(place.name(), &lock).map(drop),
            false => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "what is damaged cannot be removed");
        }
    }

    /// What a guest had in its memory or on its disk is its owner's business, hence a directory for the owner alone.
    fn make_root(&self) -> Result<(), Error> {
        let store = self.store.root();
        fs::create_dir_all(store).map_err(Error::io("make", store))?;
        match private_directory().create(&self.root) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(Error::io("make", &self.root)(e)),
            _ => Ok(()),
        }
    }
}

fn private_directory() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

fn remove_all(path: &Path) -> Result<(), Error> {
    let removed = match path.is_dir() && !path.is_symlink() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.map_err(Error::io("remove", path))
}

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::draft::{Draft, MAKERS_LOCK};
use super::lock::{self, Lock};
use super::place::{Place, bytes_on_disk};
use super::prune::PruneReport;
use super::{MANIFEST, Template, TemplateKey};
use crate::{Error, Store};

/// A template may be replaced while it is being opened; more than once within a millisecond it is not.
const OPEN_ATTEMPTS: usize = 3;
/// The endings of the directories of templates in the making, and on their way out.
const NEW: &str = "new";
const GONE: &str = "gone";

/// The warm templates of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    pub(super) store: Store,
    pub(super) root: PathBuf,
}

impl Store {
    /// The warm templates of this store.
    pub fn templates(&self) -> Templates {
        Templates {
            store: self.clone(),
            root: self.root().join("templates"),
        }
    }
}

impl Templates {
    /// Opens a template, if it is there, and notes that it was used. Nothing is hashed that looks as it did
    /// after it was last hashed. One that is damaged is thrown away, with a warning, and is as if it had
    /// never been there.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read for a reason that is not damage, such as too many open files.
    pub fn open(&self, key: &TemplateKey) -> Result<Option<Template>, Error> {
        for _ in 0..OPEN_ATTEMPTS {
            let Some(place) = Place::open(&self.root, key)? else {
                return Ok(None);
            };
            match Template::load(&place) {
                Ok(template) => {
                    place.mark_used(SystemTime::now());
                    return Ok(Some(template));
                }
                // Removed or replaced while it was read: what was found says nothing of what is there now.
                Err(_) if !place.is_still_there() => {}
                Err(error @ Error::DamagedTemplate { .. }) => {
                    self.throw_away(&place, &error);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether a template is there, without opening it or noting a use.
    pub fn has(&self, key: &TemplateKey) -> bool {
        self.path(key).join(MANIFEST).is_file()
    }

    /// Begins to make a template. `None` when another thread or process is making this very one, or has
    /// just made it. What dead makers left behind is swept.
    ///
    /// The right to make it falls with the [`Draft`], or with the process.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot be written to, [`Error::Locked`] when another process hangs
    /// while it changes the templates.
    pub fn begin(&self, key: &TemplateKey) -> Result<Option<Draft>, Error> {
        self.make_root()?;
        let lock = self.lock()?;
        self.sweep(&lock)?;
        if self.is_usable(key) {
            return Ok(None);
        }
        let work = self.work(key);
        match private_directory().create(&work) {
            // The sweep left it: its maker lives.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(Error::io("make", &work)(e)),
            Ok(()) => Draft::new(self, key, work),
        }
    }

    pub(super) fn path(&self, key: &TemplateKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Where a template is made.
    fn work(&self, key: &TemplateKey) -> PathBuf {
        self.path(key).with_extension(NEW)
    }

    /// Without it, nothing among the templates is renamed or removed.
    pub(super) fn lock(&self) -> Result<Lock, Error> {
        Lock::wait(&self.root.join("lock"))
    }

    /// Removes what a process left that ended in the midst of making or removing a template.
    pub(super) fn sweep(&self, _lock: &Lock) -> Result<PruneReport, Error> {
        let mut report = PruneReport::default();
        let entries = fs::read_dir(&self.root).map_err(Error::io("read", &self.root))?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", &self.root))?.path();
            let is_dead = match path.extension().and_then(|e| e.to_str()) {
                Some(GONE) => true,
                Some(NEW) => !lock::is_held(&path.join(MAKERS_LOCK)),
                _ => false,
            };
            if is_dead {
                tracing::debug!(path = %path.display(), "removing what a dead process left");
                report.add(bytes_on_disk(&path), remove_all(&path));
            }
        }
        Ok(report)
    }

    /// Removes a template and returns the bytes it took. Its name goes first, in one step.
    pub(super) fn remove(&self, key: &TemplateKey, _lock: &Lock) -> Result<u64, Error> {
        let (path, gone) = (self.path(key), self.path(key).with_extension(GONE));
        if gone.exists() {
            remove_all(&gone)?;
        }
        let bytes = bytes_on_disk(&path);
        fs::rename(&path, &gone).map_err(Error::io("remove", &path))?;
        remove_all(&gone)?;
        Ok(bytes)
    }

    pub(super) fn throw_away(&self, place: &Place, why: &Error) {
        tracing::warn!(%why, "a template is thrown away");
        let removed = self.lock().and_then(|lock| match place.is_still_there() {
            true => self.remove(place.key(), &lock).map(drop),
            false => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "a damaged template cannot be removed");
        }
    }

    fn is_usable(&self, key: &TemplateKey) -> bool {
        let place = Place::open(&self.root, key).ok().flatten();
        place.is_some_and(|place| Template::load(&place).is_ok())
    }

    /// A guest's memory is its owner's business, hence a directory for the owner alone.
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

pub(super) fn remove_all(path: &Path) -> Result<(), Error> {
    let removed = match path.is_dir() && !path.is_symlink() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.map_err(Error::io("remove", path))
}

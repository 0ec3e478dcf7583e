//! The store's directory: images by name, and caches for builds.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::durability::sync_directory;
use super::image::Image;
use super::manifest::Manifest;
use super::name::{ID_DIGITS, ImageName};
use super::verification::{PartReport, PartState, Verification};
use super::work_dir::{self, WorkDir};
use crate::{Error, hash};

/// Entries kept in each cache: the one in use, its predecessor, and one of another image.
const CACHE_ENTRIES: usize = 3;
/// Attempts to open an image. It may be replaced between reading its link and opening its files, but not more
/// than once within a millisecond.
const OPEN_ATTEMPTS: usize = 3;

/// A directory of images and of warm templates.
///
/// `images/NAME` is a link to `images/NAME-ID` and is switched atomically; `templates/KEY` is a saved guest;
/// `cache` makes later builds faster; `tmp` contains unfinished work and is swept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

/// An image in the list of a store.
#[derive(Debug)]
pub struct ImageSummary {
    /// The image's name.
    pub name: ImageName,
    /// The image's directory.
    pub directory: PathBuf,
    /// The image's manifest, or the error that occurred on reading it.
    pub manifest: Result<Manifest, Error>,
}

impl Store {
    /// Opens the store at `root`. The directory need not exist yet: a build creates it.
    ///
    /// # Errors
    /// Returns an error if `root` is relative and the working directory is unknown.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, Error> {
        let root = root.as_ref();
        let root = std::path::absolute(root).map_err(Error::io("find", root))?;
        Ok(Self { root })
    }

    /// Returns the default root: `FUMEHOOD_HOME`, else `XDG_DATA_HOME/fumehood`, else
    /// `~/.local/share/fumehood`.
    ///
    /// # Errors
    /// [`Error::NoHome`] if none of these variables is an absolute path.
    pub fn default_root() -> Result<PathBuf, Error> {
        root_from(|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// Returns the store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens an image. A part is hashed only if its identity changed since its last hash.
    ///
    /// # Errors
    /// [`Error::Missing`] if the image was never built, [`Error::Damaged`] if a part does not match the
    /// manifest.
    pub fn image(&self, name: &ImageName) -> Result<Image, Error> {
        let mut attempt = 1;
        loop {
            let directory = self.directory_of(name)?;
            let result = Image::open(name, &directory);
            let replaced = self.directory_of(name).is_ok_and(|now| now != directory);

            // An error counts only if the image was not replaced in the meantime.
            if result.is_ok() || !replaced || attempt == OPEN_ATTEMPTS {
                return result;
            }

            attempt += 1;
        }
    }

    /// Returns all images of the store, sorted by name.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read. A store that does not exist yet is empty.
    pub fn list(&self) -> Result<Vec<ImageSummary>, Error> {
        let images = self.images();
        let entries = match fs::read_dir(&images) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", &images))?,
        };

        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &images))?;
            // Directories of images have names that are not image names; only the links are listed.
            let Some(name) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<ImageName>().ok())
            else {
                continue;
            };

            let Ok(directory) = self.directory_of(&name) else {
                continue;
            };

            let manifest = Manifest::load(name.as_str(), &directory);
            listed.push(ImageSummary {
                name,
                directory,
                manifest,
            });
        }

        listed.sort_by(|a, b| a.name.cmp(&b.name));

        Ok(listed)
    }

    /// Hashes every part of an image and reports which parts are intact.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is no such image, [`Error::Damaged`] if its manifest cannot be read.
    pub fn verify(&self, name: &ImageName) -> Result<Verification, Error> {
        let directory = self.directory_of(name)?;
        let manifest = Manifest::load(name.as_str(), &directory)?;
        let parts = manifest.parts.iter().map(|part| {
            let path = directory.join(&part.file);
            // The recorded identities are ignored: a verification hashes everything.
            let state = match hash::of_path(&path) {
                Ok(found) if found == part.sha256 => PartState::Intact,
                Ok(found) => PartState::Damaged { found },
                Err(error) => PartState::Unreadable {
                    reason: error.to_string(),
                },
            };

            PartReport {
                name: part.name.clone(),
                path,
                expected: part.sha256.clone(),
                state,
            }
        });

        Ok(Verification {
            id: manifest.id.clone(),
            parts: parts.collect(),
        })
    }

    /// Creates the store's directories, takes the build lock and sweeps the leftovers of dead builds. Calls
    /// `waiting` if another build holds the lock.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Result<File, Error> {
        for directory in [
            self.images(),
            self.cache("kernel"),
            self.cache("base"),
            self.cache("downloads"),
            self.tmp(),
        ] {
            self.create_directory(&directory)?;
        }

        let path = self.root.join("build.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;

        // Report the wait for another build.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            waiting();
            flock(&lock, FlockOperation::LockExclusive)
                .map_err(|e| Error::io("lock", &path)(e.into()))?;
        }

        work_dir::sweep(&self.tmp())?;

        Ok(lock)
    }

    /// Creates a directory of the store that everyone can read and only this user can write, with any umask.
    /// Directories above the store get the usual mode.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn create_directory(&self, path: &Path) -> Result<(), Error> {
        if let Some(parent) = self.root.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }

        let within = path.ancestors().filter(|path| path.starts_with(&self.root));
        let within: Vec<_> = within.collect();
        for directory in within.into_iter().rev() {
            match fs::create_dir(directory) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists && directory.is_dir() => continue,
                other => other.map_err(Error::io("create", directory))?,
            }
            let mode = Permissions::from_mode(0o755);
            fs::set_permissions(directory, mode).map_err(Error::io("create", directory))?;
        }

        Ok(())
    }

    /// Returns the bytes on disk of the work of killed builds; 0 while a build runs, since its start has swept.
    pub(crate) fn abandoned_bytes(&self) -> u64 {
        match self.lock_idle() {
            Ok(Some(_lock)) => work_dir::bytes(&self.tmp()),
            Ok(None) | Err(_) => 0,
        }
    }

    /// Returns whether there is work of killed builds.
    pub(crate) fn has_abandoned(&self) -> bool {
        self.lock_idle().is_ok_and(|lock| lock.is_some())
    }

    /// Removes the work of killed builds, unless a build runs. Returns the number of directories, and their bytes on
    /// disk.
    pub(crate) fn remove_abandoned(&self) -> Result<(usize, u64), Error> {
        let Some(_lock) = self.lock_idle()? else {
            return Ok((0, 0));
        };
        let bytes = work_dir::bytes(&self.tmp());
        Ok((work_dir::sweep(&self.tmp())?, bytes))
    }

    /// Takes the build lock if there is unfinished work and no build is running.
    fn lock_idle(&self) -> Result<Option<File>, Error> {
        let is_empty =
            fs::read_dir(self.tmp()).map_or(true, |mut entries| entries.next().is_none());
        if is_empty {
            return Ok(None);
        }

        let path = self.root.join("build.lock");
        let lock = OpenOptions::new().write(true).open(&path);
        let lock = lock.map_err(Error::io("open", &path))?;
        Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .is_ok()
            .then_some(lock))
    }

    /// Returns an error if the store's disk has less free space than this.
    pub(crate) fn require_space(&self, bytes: u64) -> Result<(), Error> {
        self.require_space_at(&self.root, bytes)
    }

    /// Returns an error if the disk of `path` has less free space than this.
    pub(crate) fn require_space_at(&self, path: &Path, bytes: u64) -> Result<(), Error> {
        let disk = rustix::fs::statvfs(path)
            .map_err(|e| Error::io("inspect the disk of", path)(e.into()))?;
        let available = disk.f_bavail.saturating_mul(disk.f_frsize);
        if available < bytes {
            return Err(Error::InsufficientSpace {
                path: path.to_path_buf(),
                available,
                required: bytes,
            });
        }

        Ok(())
    }

    /// Creates a directory for unfinished work.
    pub(crate) fn work_dir(&self) -> Result<WorkDir, Error> {
        WorkDir::create(&self.tmp())
    }

    /// Returns the directory of one cache: `kernel`, `base` or `downloads`.
    pub(crate) fn cache(&self, kind: &str) -> PathBuf {
        self.root.join("cache").join(kind)
    }

    /// Moves a finished image directory into place, switches the name to it, and removes older images of that
    /// name. Running sandboxes hold descriptors of their image and are not affected.
    pub(crate) fn install(
        &self,
        name: &ImageName,
        manifest: &Manifest,
        finished: &Path,
    ) -> Result<(), Error> {
        let target = self.images().join(manifest.directory(name.as_str()));
        if target.exists() {
            // A damaged image with the same id: exchange both atomically. The old one is removed with the
            // work directory.
            renameat_with(CWD, finished, CWD, &target, RenameFlags::EXCHANGE)
                .map_err(|e| Error::io("replace", &target)(e.into()))?;
        } else {
            fs::rename(finished, &target).map_err(Error::io("move the image to", &target))?;
        }

        self.switch_link(name, &manifest.directory(name.as_str()))?;
        self.remove_older(name, &target)
    }

    /// Removes all but the newest entries of a cache.
    pub(crate) fn prune(&self, kind: &str) -> Result<(), Error> {
        let cache = self.cache(kind);

        let mut entries = Vec::new();
        for entry in fs::read_dir(&cache).map_err(Error::io("read", &cache))? {
            let entry = entry.map_err(Error::io("read", &cache))?;
            let changed = entry.metadata().and_then(|m| m.modified());
            entries.push((
                changed.map_err(Error::io("inspect", entry.path()))?,
                entry.path(),
            ));
        }

        // Newest first.
        entries.sort();
        entries.reverse();

        for (_, path) in entries.iter().skip(CACHE_ENTRIES) {
            let removed = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            removed.map_err(Error::io("remove", path))?;
        }

        Ok(())
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn directory_of(&self, name: &ImageName) -> Result<PathBuf, Error> {
        let link = self.images().join(name.as_str());
        let target = fs::read_link(&link).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Error::Missing {
                name: name.to_string(),
                store: self.root.clone(),
            },
            _ => Error::io("read", &link)(e),
        })?;

        Ok(self.images().join(target))
    }

    /// Replaces a link atomically by renaming another link over it.
    fn switch_link(&self, name: &ImageName, directory: &str) -> Result<(), Error> {
        let link = self.images().join(name.as_str());
        let work = self.work_dir()?;
        let temporary = work.path().join("link");
        symlink(directory, &temporary).map_err(Error::io("create", &temporary))?;
        fs::rename(&temporary, &link).map_err(Error::io("switch", &link))?;

        sync_directory(&self.images())
    }

    /// Removes all images of this name except the current one.
    fn remove_older(&self, name: &ImageName, current: &Path) -> Result<(), Error> {
        let images = self.images();
        for entry in fs::read_dir(&images).map_err(Error::io("read", &images))? {
            let path = entry.map_err(Error::io("read", &images))?.path();
            let id = path
                .file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.strip_prefix(name.as_str()))
                .and_then(|n| n.strip_prefix('-'));

            let is_image = id.is_some_and(|id| {
                id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit())
            });

            if is_image && path != current {
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }

        Ok(())
    }
}

pub(super) fn root_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Error> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    absolute("FUMEHOOD_HOME")
        .or_else(|| absolute("XDG_DATA_HOME").map(|data| data.join("fumehood")))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share/fumehood")))
        .ok_or(Error::NoHome)
}

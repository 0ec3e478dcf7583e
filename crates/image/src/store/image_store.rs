//! Where images live, and everything kept to build them faster.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::durability::sync_directory;
use super::image::Image;
use super::manifest::Manifest;
use super::name::{ID_DIGITS, ImageName};
use super::verification::{PartReport, PartState, Verification};
use super::work_dir::{self, WorkDir};
use crate::{Error, hash};

/// Entries kept in each cache: the one in use, the one before it, one of another image.
const CACHE_ENTRIES: usize = 3;
/// An image may be replaced between the look at its link and the opening of its files; more than once
/// within a millisecond it is not.
const OPEN_ATTEMPTS: usize = 3;

/// A directory of images and of warm templates.
///
/// `images/NAME` is a link to `images/NAME-ID`, switched in one step; `templates/KEY` is a saved guest;
/// `cache` holds what makes a later build faster; `tmp` holds unfinished work and is swept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

/// One image of a store.
#[derive(Debug)]
pub struct ImageSummary {
    /// Its name.
    pub name: ImageName,
    /// Its directory.
    pub directory: PathBuf,
    /// What it consists of, or why that cannot be said.
    pub manifest: Result<Manifest, Error>,
}

impl Store {
    /// The store at `root`, which need not exist yet: a build makes it.
    ///
    /// # Errors
    /// When `root` is relative and the working directory is not known.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, Error> {
        let root = root.as_ref();
        let root = std::path::absolute(root).map_err(Error::io("find", root))?;
        Ok(Self { root })
    }

    /// `FUMEHOOD_HOME`, else `XDG_DATA_HOME/fumehood`, else `~/.local/share/fumehood`.
    ///
    /// # Errors
    /// [`Error::NoHome`] when none of them is set to an absolute path.
    pub fn default_root() -> Result<PathBuf, Error> {
        root_from(|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens an image. Nothing is hashed that looks as it did after it was last hashed.
    ///
    /// # Errors
    /// [`Error::Missing`] when it was never built, [`Error::Damaged`] when a part is not the manifest's.
    pub fn image(&self, name: &ImageName) -> Result<Image, Error> {
        let mut attempt = 1;
        loop {
            let directory = self.directory_of(name)?;
            let result = Image::open(name, &directory);
            let replaced = self.directory_of(name).is_ok_and(|now| now != directory);

            if result.is_ok() || !replaced || attempt == OPEN_ATTEMPTS {
                return result;
            }

            attempt += 1;
        }
    }

    /// Every image of the store, by name.
    ///
    /// # Errors
    /// When the store cannot be read; a store that does not exist yet is empty.
    pub fn list(&self) -> Result<Vec<ImageSummary>, Error> {
        let images = self.images();
        let entries = match fs::read_dir(&images) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", &images))?,
        };

        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &images))?;
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

    /// Hashes every part of an image and says which are intact.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no such image, [`Error::Damaged`] when its manifest cannot be read.
    pub fn verify(&self, name: &ImageName) -> Result<Verification, Error> {
        let directory = self.directory_of(name)?;
        let manifest = Manifest::load(name.as_str(), &directory)?;
        let parts = manifest.parts.iter().map(|part| {
            let path = directory.join(&part.file);
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

    /// Makes the directories and takes the store for one build; `waiting` is called when another build has
    /// it. Sweeps what dead builds left.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Result<File, Error> {
        for directory in [
            self.images(),
            self.cache("kernel"),
            self.cache("base"),
            self.tmp(),
        ] {
            fs::create_dir_all(&directory).map_err(Error::io("make", &directory))?;
        }

        fs::create_dir_all(self.cache("downloads"))
            .map_err(Error::io("make", self.cache("downloads")))?;
        let path = self.root.join("build.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;

        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            waiting();
            flock(&lock, FlockOperation::LockExclusive)
                .map_err(|e| Error::io("lock", &path)(e.into()))?;
        }

        work_dir::sweep(&self.tmp())?;

        Ok(lock)
    }

    /// Refuses to begin work for which there is no room.
    pub(crate) fn require_space(&self, bytes: u64) -> Result<(), Error> {
        self.require_space_at(&self.root, bytes)
    }

    /// The same for the disk that `path` is on.
    pub(crate) fn require_space_at(&self, path: &Path, bytes: u64) -> Result<(), Error> {
        let found = rustix::fs::statvfs(path)
            .map_err(|e| Error::io("inspect the disk of", path)(e.into()))?;
        let available = found.f_bavail.saturating_mul(found.f_frsize);
        match available < bytes {
            true => Err(Error::InsufficientSpace {
                path: path.to_path_buf(),
                available,
                required: bytes,
            }),
            false => Ok(()),
        }
    }

    /// A directory for unfinished work.
    pub(crate) fn work_dir(&self) -> Result<WorkDir, Error> {
        WorkDir::create(&self.tmp())
    }

    /// The cache of one kind of thing: `kernel`, `base` or `downloads`.
    pub(crate) fn cache(&self, kind: &str) -> PathBuf {
        self.root.join("cache").join(kind)
    }

    /// Puts a finished image directory in its place, switches the name to it, and removes the name's older
    /// images. Running sandboxes hold descriptors of theirs and are not disturbed.
    pub(crate) fn install(
        &self,
        name: &ImageName,
        manifest: &Manifest,
        finished: &Path,
    ) -> Result<(), Error> {
        let target = self.images().join(manifest.directory(name.as_str()));
        if target.exists() {
            // A damaged image of the same identity: exchanged in one step, then removed with the work.
            renameat_with(CWD, finished, CWD, &target, RenameFlags::EXCHANGE)
                .map_err(|e| Error::io("replace", &target)(e.into()))?;
        } else {
            fs::rename(finished, &target).map_err(Error::io("move the image to", &target))?;
        }

        self.switch(name, &manifest.directory(name.as_str()))?;

        self.remove_older(name, &target)
    }

    /// Keeps the newest entries of a cache.
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

    /// A link is replaced in one step by renaming another over it.
    fn switch(&self, name: &ImageName, directory: &str) -> Result<(), Error> {
        let link = self.images().join(name.as_str());
        let work = self.work_dir()?;
        let temporary = work.path().join("link");
        symlink(directory, &temporary).map_err(Error::io("make", &temporary))?;
        fs::rename(&temporary, &link).map_err(Error::io("switch", &link))?;
        sync_directory(&self.images())
    }

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

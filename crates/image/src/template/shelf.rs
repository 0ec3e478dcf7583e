use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use super::{Draft, IDENTITY, MANIFEST, RAM, STATE, TemplateKey, TemplateManifest, draft, sparse};
use crate::identity::{self, Identity};
use crate::workdir::{self, WorkDir};
use crate::{Error, Store, hash};

/// What all templates together may take on disk unless somebody says otherwise, in bytes: some sixty of
/// the usual 64 MB.
pub const TEMPLATES_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The templates of a store: `templates/KEY` each. `templates/tmp` holds unfinished ones, `KEY.lock`
/// says that somebody makes one.
#[derive(Clone, Debug)]
pub struct Templates {
    store: Store,
    root: PathBuf,
}

/// A template, open and intact.
#[derive(Debug)]
pub struct Template {
    manifest: TemplateManifest,
    ram: File,
    state: Vec<u8>,
}

/// One template of a store.
#[derive(Debug)]
pub struct ListedTemplate {
    /// Its directory.
    pub directory: PathBuf,
    /// What it is, or why that cannot be said.
    pub manifest: Result<TemplateManifest, Error>,
    /// Bytes that it takes on disk.
    pub bytes: u64,
    /// When it was last used.
    pub last_used: SystemTime,
    /// Whether its files look as they did when they were hashed.
    pub is_intact: bool,
}

/// What [`Templates::prune`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Templates removed.
    pub removed: usize,
    /// Bytes freed on disk.
    pub freed_bytes: u64,
}

impl Template {
    /// Opens the one in `directory`. Nothing is hashed that looks as it did after it was last hashed.
    pub(super) fn open(directory: &Path, manifest: TemplateManifest) -> Result<Self, Error> {
        let known = identity::load(&directory.join(IDENTITY));
        let open = |name: &str| -> Result<(File, bool), Error> {
            let path = directory.join(name);
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            let is_known = known.get(name) == Some(&Identity::of(&file, &path)?);
            Ok((file, is_known))
        };
        let (ram, ram_is_known) = open(RAM)?;
        let (_, state_is_known) = open(STATE)?;
        let path = directory.join(STATE);
        let state = fs::read(&path).map_err(Error::io("read", &path))?;
        if !ram_is_known || !state_is_known {
            let ram_path = directory.join(RAM);
            let found = sparse::hash(&ram).map_err(Error::io("read", &ram_path))?;
            let size = ram.metadata().map_err(Error::io("inspect", &ram_path))?;
            if found != manifest.ram_sha256 || size.len() != manifest.ram_bytes {
                return Err(damaged(&ram_path));
            }
            if hash::of_bytes(&state) != manifest.state_sha256 {
                return Err(damaged(&path));
            }
            draft::record(directory)?;
        }
        Ok(Self {
            manifest,
            ram,
            state,
        })
    }

    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &TemplateManifest {
        &self.manifest
    }

    /// The guest's memory, a sparse file.
    #[must_use]
    pub fn ram(&self) -> &File {
        &self.ram
    }

    /// The state of the machine's devices.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// Copies the guest's memory to another file, which gets its size. 64 MB take 46 ms.
    ///
    /// # Errors
    /// The operating system's.
    pub fn copy_ram_to(&self, to: &File) -> std::io::Result<()> {
        sparse::copy_sparse(&self.ram, to)
    }
}

fn damaged(path: &Path) -> Error {
    let other = std::io::Error::other("it is not what was written there");
    Error::io("use", path)(other)
}

impl Store {
    /// Its templates.
    #[must_use]
    pub fn templates(&self) -> Templates {
        Templates {
            root: self.root().join("templates"),
            store: self.clone(),
        }
    }
}

impl Templates {
    fn directory(&self, key: &TemplateKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Whether it is there; it may still prove damaged.
    #[must_use]
    pub fn has(&self, key: &TemplateKey) -> bool {
        self.directory(key).join(MANIFEST).is_file()
    }

    /// Opens a template, if it is there and intact; a damaged one is thrown away. It counts as used now.
    ///
    /// # Errors
    /// The operating system's, when a damaged one cannot be removed.
    pub fn open(&self, key: &TemplateKey) -> Result<Option<Template>, Error> {
        let directory = self.directory(key);
        if !self.has(key) {
            return Ok(None);
        }
        let opened = TemplateManifest::load(&directory)
            .and_then(|manifest| Template::open(&directory, manifest));
        match opened {
            Ok(template) => {
                use_now(&directory);
                Ok(Some(template))
            }
            // Somebody may have removed it between two looks.
            Err(_) if !self.has(key) => Ok(None),
            Err(error) => {
                tracing::warn!(%error, "a template is damaged, and is thrown away");
                remove(&directory)?;
                Ok(None)
            }
        }
    }

    /// Begins to make a template. `None`: somebody else is making it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn begin(&self, key: &TemplateKey) -> Result<Option<Draft>, Error> {
        let tmp = self.root.join("tmp");
        fs::create_dir_all(&tmp).map_err(Error::io("make", &tmp))?;
        let path = self.root.join(format!("{key}.lock"));
        let lock = open_lock(&path)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let work = self.under_lock(|| {
            workdir::sweep(&tmp)?;
            WorkDir::create(&tmp)
        })?;
        let target = self.directory(key);
        Ok(Some(Draft::new(self.store.clone(), target, work, lock)))
    }

    /// Work directories are made and swept by one at a time, so that none is seen half-made.
    fn under_lock<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let path = self.root.join("tmp.lock");
        let lock = open_lock(&path)?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| Error::io("lock", &path)(e.into()))?;
        work()
    }

    /// All of them, the one that was used last first.
    ///
    /// # Errors
    /// When the directory cannot be read; where there is none, there are none.
    pub fn list(&self) -> Result<Vec<ListedTemplate>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", &self.root))?,
        };
        let mut listed = Vec::new();
        for entry in entries {
            let directory = entry.map_err(Error::io("read", &self.root))?.path();
            if directory.is_dir() && directory.file_name() != Some("tmp".as_ref()) {
                listed.push(look(directory));
            }
        }
        listed.sort_by_key(|template| std::cmp::Reverse(template.last_used));
        Ok(listed)
    }

    /// Removes damaged ones and those that `keep` does not want, then those that were used longest ago,
    /// until the rest takes `most_bytes` at most. Whoever has one open goes on using it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn prune(
        &self,
        most_bytes: u64,
        keep: impl Fn(&TemplateManifest) -> bool,
    ) -> Result<PruneReport, Error> {
        let tmp = self.root.join("tmp");
        if tmp.is_dir() {
            self.under_lock(|| workdir::sweep(&tmp))?;
        }
        let (mut report, mut kept) = (PruneReport::default(), 0);
        for template in self.list()? {
            let wanted = template.is_intact && template.manifest.as_ref().is_ok_and(&keep);
            if wanted && kept + template.bytes <= most_bytes {
                kept += template.bytes;
                continue;
            }
            remove(&template.directory)?;
            report.removed += 1;
            report.freed_bytes += template.bytes;
        }
        Ok(report)
    }
}

fn open_lock(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.open(path).map_err(Error::io("open", path))
}

/// The manifest goes first: without it, nothing in the directory counts.
fn remove(directory: &Path) -> Result<(), Error> {
    let gone = |result: std::io::Result<()>| match result {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    gone(fs::remove_file(directory.join(MANIFEST)))
        .and_then(|()| gone(fs::remove_dir_all(directory)))
        .map_err(Error::io("remove", directory))
}

/// The directory's time of modification says when: nothing in it changes, and file systems are often told
/// to keep no times of access.
fn use_now(directory: &Path) {
    let now = FileTimes::new().set_modified(SystemTime::now());
    let marked = File::open(directory).and_then(|file| file.set_times(now));
    if let Err(error) = marked {
        tracing::debug!(%error, "a template's use cannot be noted");
    }
}

fn look(directory: PathBuf) -> ListedTemplate {
    let manifest = TemplateManifest::load(&directory);
    let known = identity::load(&directory.join(IDENTITY));
    let looks_right = |name: &str| {
        let metadata = fs::metadata(directory.join(name)).ok();
        metadata.is_some_and(|m| known.get(name) == Some(&Identity::from(&m)))
    };
    let is_intact = manifest.is_ok() && looks_right(RAM) && looks_right(STATE);
    let last_used = fs::metadata(&directory).and_then(|m| m.modified());
    ListedTemplate {
        bytes: bytes_in(&directory),
        last_used: last_used.unwrap_or(SystemTime::UNIX_EPOCH),
        is_intact,
        manifest,
        directory,
    }
}

fn bytes_in(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.blocks() * 512)
        .sum()
}

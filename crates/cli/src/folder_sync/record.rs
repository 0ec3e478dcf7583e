//! The mounted folders of a sandbox, in a file of this user: which they are, and their content when they were copied in.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use fumehood_server::Store;
use serde::{Deserialize, Serialize};

use super::mount::Mount;
use super::tree::{Entry, Tree};

/// The version of the file's format.
const VERSION: u32 = 1;
/// Maximum size of a file, in bytes.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Age from which the record of a sandbox that the server does not know is removed. Another server may know it.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The mounted folders of a sandbox.
#[derive(Debug)]
pub(crate) struct MountRecord {
    id: String,
    pub(crate) mounts: Vec<Mount>,
}

/// The form of a file.
#[derive(Serialize, Deserialize)]
struct RecordFile {
    version: u32,
    mounts: Vec<MountForm>,
}

#[derive(Serialize, Deserialize)]
struct MountForm {
    local: PathBuf,
    remote: String,
    entries: Vec<(PathBuf, Entry)>,
}

impl MountRecord {
    /// Creates the record of a sandbox. It is not saved yet.
    pub(crate) fn new(id: &str, mounts: Vec<Mount>) -> Self {
        let id = id.to_owned();
        Self { id, mounts }
    }

    /// Reads the record of a sandbox. Returns `None` if it has none.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(crate) fn load(id: &str) -> anyhow::Result<Option<Self>> {
        let path = path(id);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.with_context(|| format!("cannot read {}", path.display()))?,
        };

        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        let record: RecordFile = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; remove it", path.display()))?;
        anyhow::ensure!(
            record.version == VERSION,
            "{} was written by another version of fumehood",
            path.display()
        );

        let mount = |form: MountForm| Mount {
            local: form.local,
            remote: form.remote,
            before: form.entries.into_iter().collect::<Tree>(),
        };
        let mounts = record.mounts.into_iter().map(mount).collect();
        Ok(Some(Self::new(id, mounts)))
    }

    /// Writes the record, completely or not at all.
    ///
    /// # Errors
    /// It cannot be written, or a name is not valid UTF-8.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let form = |mount: &Mount| MountForm {
            local: mount.local.clone(),
            remote: mount.remote.clone(),
            entries: mount.before.clone().into_iter().collect(),
        };
        let record = RecordFile {
            version: VERSION,
            mounts: self.mounts.iter().map(form).collect(),
        };
        let bytes = serde_json::to_vec(&record).context(
            "a mounted folder has a name that is not valid UTF-8, which is not supported",
        )?;

        let path = path(&self.id);
        let write = || {
            let dir = directory();
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            // A temporary file has mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(&dir)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok::<_, std::io::Error>(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives a copy of the sandbox the same mounts.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub(crate) fn copy_to(&self, id: &str) -> anyhow::Result<()> {
        Self::new(id, self.mounts.clone()).save()
    }

    /// Removes the record of a sandbox that has ended, if it has one.
    pub(crate) fn remove(id: &str) {
        let _ = std::fs::remove_file(path(id));
    }

    /// Removes old records of sandboxes that are not in use any more.
    pub(crate) fn prune(is_used: impl Fn(&str) -> bool) {
        let files = std::fs::read_dir(directory())
            .into_iter()
            .flatten()
            .flatten();
        for file in files {
            let modified = file.metadata().and_then(|metadata| metadata.modified());
            let age = modified
                .ok()
                .and_then(|time| SystemTime::now().duration_since(time).ok());
            let is_old = age.is_some_and(|age| age > MAX_AGE);
            let path = file.path();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            if is_old && id.is_none_or(|id| !is_used(id)) {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

fn directory() -> PathBuf {
    Store::default_path().with_file_name("mounts")
}

/// Returns the path of a record. Ids are checked where they arrive: they are single names.
fn path(id: &str) -> PathBuf {
    directory().join(format!("{id}.json"))
}

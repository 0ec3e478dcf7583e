use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{IDENTITY, MANIFEST, RAM, STATE, Template, TemplateManifest, sparse};
use crate::identity::{Identities, Identity};
use crate::store::sync_directory;
use crate::workdir::WorkDir;
use crate::{Error, Store, hash};

/// A template that is being made, by nobody else. What is unfinished goes with it.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    target: PathBuf,
    work: WorkDir,
    /// Held until the template is in its place.
    _lock: File,
}

impl Draft {
    pub(super) fn new(store: Store, target: PathBuf, work: WorkDir, lock: File) -> Self {
        Self {
            store,
            target,
            work,
            _lock: lock,
        }
    }

    /// Writes the memory (a sparse file) and the devices' state, and puts the template in its place in
    /// one step.
    ///
    /// # Errors
    /// [`Error::NoRoom`], and what the operating system says. Nothing is left behind then.
    pub fn finish(
        self,
        inputs: BTreeMap<String, String>,
        ram: &File,
        state: &[u8],
    ) -> Result<Template, Error> {
        let directory = self.work.path().join("template");
        fs::create_dir(&directory).map_err(Error::io("make", &directory))?;
        let ram_path = directory.join(RAM);
        let need = sparse::data_bytes(ram).map_err(Error::io("inspect", &ram_path))?;
        self.store
            .need_room_at(&directory, need + state.len() as u64)?;
        let ram_file = create(&ram_path)?;
        let ram_sha256 =
            sparse::copy_and_hash(ram, &ram_file).map_err(Error::io("write", &ram_path))?;
        write_out(&ram_file, &ram_path)?;
        let state_path = directory.join(STATE);
        write(&state_path, state)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let manifest = TemplateManifest::new(
            inputs,
            since.map_or(0, |since| since.as_secs()),
            ram.metadata()
                .map_err(Error::io("inspect", &ram_path))?
                .len(),
            ram_sha256,
            hash::of_bytes(state),
        );
        let manifest_path = directory.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| Error::io("write", &manifest_path)(e.into()))?;
        write(&manifest_path, &text)?;
        record(&directory)?;
        sync_directory(&directory)?;
        put(&directory, &self.target, self.work.path())?;
        Template::open(&self.target, manifest)
    }
}

/// Remembers what the files look like that have just been hashed.
pub(super) fn record(directory: &Path) -> Result<(), Error> {
    let mut identities = Identities::new();
    for name in [RAM, STATE] {
        let path = directory.join(name);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        identities.insert(name.to_owned(), Identity::of(&file, &path)?);
    }
    let path = directory.join(IDENTITY);
    let text = serde_json::to_vec(&identities).map_err(|e| Error::io("write", &path)(e.into()))?;
    let fresh = directory.join("identity.new");
    write(&fresh, &text)?;
    fs::rename(&fresh, &path).map_err(Error::io("replace", &path))
}

/// Only the owner may read a guest's memory; QEMU gets copies.
fn create(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map_err(Error::io("make", path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = create(path)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    write_out(&file, path)
}

fn write_out(file: &File, path: &Path) -> Result<(), Error> {
    file.sync_all().map_err(Error::io("write out", path))
}

/// A template that is there already was found damaged: it makes way, and goes with the work directory.
fn put(finished: &Path, target: &Path, work: &Path) -> Result<(), Error> {
    if target.exists() {
        fs::rename(target, work.join("damaged")).map_err(Error::io("move away", target))?;
    }
    fs::rename(finished, target).map_err(Error::io("move the template to", target))?;
    sync_directory(target.parent().unwrap_or(target))
}

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::lock::Lock;
use super::place::Place;
use super::templates::remove_all;
use super::{FORMAT, MANIFEST, RAM, STATE, ram};
use super::{Template, TemplateKey, TemplateManifest, Templates};
use crate::identity::{Identities, Identity};
use crate::sparse::{MEMORY, data_bytes};
use crate::store::sync_directory;
use crate::{Error, hash, image};

/// The file in a directory of unfinished work that is locked while its maker lives.
pub(super) const MAKERS_LOCK: &str = "lock";
/// What a template takes besides memory and state: manifest, identities, the file system's own. Bytes.
const MARGIN: u64 = 1 << 20;

/// A template in the making. Nobody else makes it meanwhile, and nobody finds it before
/// [`finish`](Self::finish) is through. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Draft {
    templates: Templates,
    key: TemplateKey,
    work: PathBuf,
    is_installed: bool,
    _lock: Lock,
}

impl Draft {
    /// For an empty directory that was just made under the templates' lock.
    pub(super) fn new(
        templates: &Templates,
        key: &TemplateKey,
        work: PathBuf,
    ) -> Result<Option<Self>, Error> {
        let lock = Lock::attempt(&work.join(MAKERS_LOCK))?;
        Ok(lock.map(|lock| Self {
            templates: templates.clone(),
            key: key.clone(),
            work,
            is_installed: false,
            _lock: lock,
        }))
    }

    /// Which one it is to be.
    pub fn key(&self) -> &TemplateKey {
        &self.key
    }

    /// Writes the template out and puts it in its place in one step. `inputs` are those of the key; `ram`
    /// is the guest's memory, whose holes and pages of zeros are left out; `state` is that of the devices.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when the disk has not enough room, and [`Error::DiskFull`] when it proves so while
    /// writing; [`Error::Io`]; [`Error::Inconsistent`] when the inputs are not those of the key. Nothing is
    /// left behind.
    pub fn finish(
        mut self,
        inputs: BTreeMap<String, String>,
        ram: &File,
        state: &[u8],
    ) -> Result<Template, Error> {
        if TemplateKey::of(&inputs) != self.key {
            return Err(Error::Inconsistent {
                what: "template",
                why: "its inputs are not those of its key".to_owned(),
            });
        }
        let data = data_bytes(ram).map_err(Error::io("inspect", MEMORY))?;
        let need = data + state.len() as u64 + MARGIN;
        // Templates may lie on a disk of their own.
        let templates = self.templates.clone();
        templates.store.need_room_at(&templates.root, need)?;
        self.write(inputs, ram, state)
            .and_then(|()| self.install())
            .map_err(|error| error.or_disk_full(&templates.root, need))
    }

    /// Fills the work directory, so that it outlasts a power cut.
    pub(super) fn write(
        &self,
        inputs: BTreeMap<String, String>,
        ram: &File,
        state: &[u8],
    ) -> Result<(), Error> {
        let metadata = ram.metadata().map_err(Error::io("inspect", MEMORY))?;
        let ram_bytes = metadata.len();
        let mut identities = Identities::new();
        let contents = self.part(RAM, &mut identities, |file| {
            file.set_len(ram_bytes)?;
            ram::save(ram, ram_bytes, file)
        })?;
        self.part(STATE, &mut identities, |file| file.write_all(state))?;
        let manifest = TemplateManifest {
            format: FORMAT,
            key: self.key.to_string(),
            inputs,
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            ram_bytes,
            ram_data_bytes: contents.data_bytes,
            ram_sha256: contents.sha256,
            state_bytes: state.len() as u64,
            state_sha256: hash::of_bytes(state),
        };
        self.part(MANIFEST, &mut Identities::new(), |file| {
            file.write_all(&serde_json::to_vec_pretty(&manifest)?)
        })?;
        image::record(&self.work, &identities)?;
        sync_directory(&self.work)
    }

    /// Makes one file, for the owner's eyes only: unlike an image's parts, QEMU never opens it.
    fn part<T>(
        &self,
        name: &str,
        identities: &mut Identities,
        fill: impl FnOnce(&mut File) -> std::io::Result<T>,
    ) -> Result<T, Error> {
        let path = self.work.join(name);
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

    /// Gives the work directory its name and opens it, before anyone can prune it.
    fn install(&mut self) -> Result<Template, Error> {
        let lock = self.templates.lock()?;
        let path = self.templates.path(&self.key);
        if path.exists() {
            // It was damaged when this one was begun.
            self.templates.remove(&self.key, &lock)?;
        }
        fs::rename(&self.work, &path).map_err(Error::io("move the template to", &path))?;
        self.is_installed = true;
        remove_makers_lock(&path);
        sync_directory(&self.templates.root)?;
        let place = Place::open(&self.templates.root, &self.key)?;
        let place = place.ok_or_else(|| Error::Inconsistent {
            what: "template",
            why: format!("{} is not there", path.display()),
        })?;
        place.mark_used(SystemTime::now());
        Template::load(&place)
    }
}

impl Drop for Draft {
    /// Under the templates' lock, for else another maker could take the name between two steps of the
    /// removal.
    fn drop(&mut self) {
        if self.is_installed {
            return;
        }
        let removed = self
            .templates
            .lock()
            .and_then(|_lock| remove_all(&self.work));
        if let Err(error) = removed {
            tracing::warn!(%error, "an unfinished template stays until the next one is begun");
        }
    }
}

/// In a finished template it means nothing, so it may also stay.
fn remove_makers_lock(template: &Path) {
    if let Err(error) = fs::remove_file(template.join(MAKERS_LOCK)) {
        tracing::debug!(%error, "cannot remove a maker's lock");
    }
}

//! Writing a new template.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::format::{FORMAT, MANIFEST, RAM, STATE};
use super::key::TemplateKey;
use super::manifest::TemplateManifest;
use super::memory;
use super::opened::Template;
use crate::artifact_cache::StagingDir;
use crate::sparse::{MEMORY, data_bytes};
use crate::store::{Identities, save_identities, sync_directory};
use crate::{Error, hash};

/// What a template takes besides memory and state: manifest, identities, the file system's own. Bytes.
const MARGIN: u64 = 1 << 20;

/// A template in the making. Nobody else makes it meanwhile, and nobody finds it before
/// [`finish`](Self::finish) is through. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct TemplateWriter {
    key: TemplateKey,
    staging: StagingDir,
}

impl TemplateWriter {
    pub(super) fn new(key: &TemplateKey, staging: StagingDir) -> Self {
        Self {
            key: key.clone(),
            staging,
        }
    }

    /// Which one it is to be.
    pub fn key(&self) -> &TemplateKey {
        &self.key
    }

    /// Writes the template out and puts it in its place in one step. `inputs` are those of the key; `ram`
    /// is the guest's memory, whose holes and pages of zeros are left out; `state` is that of the devices.
    ///
    /// # Errors
    /// [`Error::InsufficientSpace`] when the disk has not enough room, and [`Error::DiskFull`] when it proves so while
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
                item: "template",
                reason: "its inputs are not those of its key".to_owned(),
            });
        }

        let data = data_bytes(ram).map_err(Error::io("inspect", MEMORY))?;
        let required = data + state.len() as u64 + MARGIN;
        let cache = self.staging.cache().clone();
        cache.require_space(required)?;

        self.write(inputs, ram, state)
            .and_then(|()| self.staging.install(self.key.as_str(), Template::load))
            .map_err(|error| error.or_disk_full(cache.root(), required))
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
        let contents = self.staging.part(RAM, &mut identities, |file| {
            file.set_len(ram_bytes)?;
            memory::save(ram, ram_bytes, file)
        })?;
        self.staging
            .part(STATE, &mut identities, |file| file.write_all(state))?;
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

        self.staging
            .part(MANIFEST, &mut Identities::new(), |file| {
                file.write_all(&serde_json::to_vec_pretty(&manifest)?)
            })?;
        save_identities(self.staging.path(), &identities)?;

        sync_directory(self.staging.path())
    }
}

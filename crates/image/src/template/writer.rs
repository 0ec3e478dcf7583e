//! Writing a new template.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use super::format::{FORMAT, MANIFEST, RAM, STATE};
use super::key::TemplateKey;
use super::manifest::TemplateManifest;
use super::memory;
use super::opened::Template;
use crate::artifact_cache::StagingDir;
use crate::clock::unix_seconds;
use crate::sparse::{MEMORY, data_bytes};
use crate::store::{Identities, save_identities, sync_directory};
use crate::{Error, hash};

/// Bytes of a template in addition to memory and state: manifest, identities and directory.
const MARGIN: u64 = 1 << 20;

/// A template that is being created. No other writer exists for it, and the template is not visible before
/// [`finish`](Self::finish) returns. Dropping the writer removes its files.
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

    /// Returns the key of the template.
    pub fn key(&self) -> &TemplateKey {
        &self.key
    }

    /// Writes the template and installs it atomically. `inputs` are the inputs of the key; `ram` is the
    /// guest's memory, whose holes and pages of zeros are skipped; `state` is the devices' state.
    ///
    /// # Errors
    /// [`Error::InsufficientSpace`] if the disk has too little free space, [`Error::DiskFull`] if it fills up
    /// during the write, [`Error::Io`], or [`Error::Inconsistent`] if the inputs do not match the key. No
    /// files are left behind.
    pub fn finish(
        mut self,
        inputs: BTreeMap<String, String>,
        ram: &File,
        state: &[u8],
    ) -> Result<Template, Error> {
        if TemplateKey::of(&inputs) != self.key {
            return Err(Error::Inconsistent {
                item: "template",
                reason: "its inputs do not match its key".to_owned(),
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

    /// Fills the staging directory and flushes it to the disk.
    pub(super) fn write(
        &self,
        inputs: BTreeMap<String, String>,
        ram: &File,
        state: &[u8],
    ) -> Result<(), Error> {
        let metadata = ram.metadata().map_err(Error::io("inspect", MEMORY))?;
        let ram_bytes = metadata.len();

        // The memory and the state, with their identities.
        let mut identities = Identities::new();
        let contents = self.staging.write_file(RAM, &mut identities, |file| {
            file.set_len(ram_bytes)?;
            memory::save(ram, ram_bytes, file)
        })?;
        self.staging
            .write_file(STATE, &mut identities, |file| file.write_all(state))?;

        // The manifest comes last: it contains the hashes of the other files.
        let manifest = TemplateManifest {
            format: FORMAT,
            key: self.key.to_string(),
            inputs,
            created: unix_seconds(),
            ram_bytes,
            ram_data_bytes: contents.data_bytes,
            ram_sha256: contents.sha256,
            state_bytes: state.len() as u64,
            state_sha256: hash::of_bytes(state),
        };

        self.staging
            .write_file(MANIFEST, &mut Identities::new(), |file| {
                file.write_all(&serde_json::to_vec_pretty(&manifest)?)
            })?;
        save_identities(self.staging.path(), &identities)?;

        sync_directory(self.staging.path())
    }
}

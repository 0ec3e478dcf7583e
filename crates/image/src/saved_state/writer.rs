//! Writing a new state.

use std::fs::{self, File};
use std::io::{self, Write};

use super::format::{CLAIM, DEVICES, FORMAT, INDEX, MANIFEST, MAX_LABEL_BYTES, MEMORY, UNCLAIMED};
use super::id::StateId;
use super::manifest::{PinnedFile, StateManifest};
use super::pages::PageWriter;
use super::pins::{NeededFile, PinKind};
use super::process::{self, ProcessSaver};
use super::saved_states::{SavedStates, StateSummary};
use crate::artifact_cache::StagingDir;
use crate::clock::unix_seconds;
use crate::store::{Identities, sync_directory};
use crate::{Error, hash};

/// Bytes of a state in addition to pages: devices, index, manifest and directory.
const MARGIN: u64 = 1 << 20;

/// The most bytes that a small state takes with its QEMU. Those of a larger one may take a quarter of its pages.
const MAX_PROCESS_BYTES: u64 = 36 << 20;

/// A state to write.
pub struct StateToSave<'a> {
    /// The caller's text, at most 256 bytes.
    pub label: &'a str,
    /// The size of the guest's memory in bytes.
    pub memory_bytes: u64,
    /// The most bytes of pages that may be stored.
    pub max_data_bytes: u64,
    /// The memory of the template that the guest was restored from.
    pub template: Option<NeededFile<'a>>,
    /// The root file system.
    pub rootfs: NeededFile<'a>,
    /// The layer of packages.
    pub layer: Option<NeededFile<'a>>,
    /// The state of the devices.
    pub devices: &'a [u8],
    /// The engine's description of the guest.
    pub description: serde_json::Value,
    /// Saves QEMU itself after the guest's pages, if it can.
    pub process: Option<ProcessSaver<'a>>,
}

impl SavedStates {
    /// Writes a state. `pages` passes all pages that may differ from the template to the writer. When this returns, the
    /// state is complete on the disk; after an error there is none.
    ///
    /// # Errors
    /// [`Error::InsufficientSpace`] if the disk has too little free space, [`Error::DiskFull`] for a full quota,
    /// [`Error::Option`] for a label that is too long, and [`Error::Io`].
    pub fn save(
        &self,
        state: StateToSave<'_>,
        pages: impl FnOnce(&mut PageWriter<'_>) -> io::Result<()>,
    ) -> Result<StateSummary, Error> {
        if state.label.len() > MAX_LABEL_BYTES {
            return Err(Error::Option {
                option: "label of a saved state".to_owned(),
                reason: "it has more than 256 bytes",
            });
        }

        let id = StateId::random()?;
        let staging = self.cache.create(id.as_str(), || false)?;
        let mut staging = staging.ok_or_else(|| Error::StateInUse { id: id.to_string() })?;
        let required = state.max_data_bytes + state.devices.len() as u64 + MARGIN;

        let written = self.write(&mut staging, id, state, pages);
        written.map_err(|error| self.explain_full_disk(error, required))
    }

    fn write(
        &self,
        staging: &mut StagingDir,
        id: StateId,
        state: StateToSave<'_>,
        pages: impl FnOnce(&mut PageWriter<'_>) -> io::Result<()>,
    ) -> Result<StateSummary, Error> {
        let (pinned, _kept) = self.pin_files(&state)?;

        let mut ignored = Identities::new();
        let template = state.template.map(|template| template.file);
        let whole_chunks = state.process.is_some();
        let index = staging.write_file(MEMORY, &mut ignored, |file| {
            file.set_len(state.memory_bytes)?;
            let mut writer = PageWriter::new(file, template, whole_chunks);
            pages(&mut writer)?;
            writer.finish()
        })?;

        let encoded = index.encode();
        staging.write_file(INDEX, &mut ignored, |file| file.write_all(&encoded))?;
        staging.write_file(DEVICES, &mut ignored, |file| file.write_all(state.devices))?;
        // It exists from the beginning: a state can then be resumed on a full disk.
        staging.write_file(CLAIM, &mut ignored, |file| file.write_all(UNCLAIMED))?;

        let max_bytes = MAX_PROCESS_BYTES
            .saturating_sub(index.data_bytes())
            .max(index.data_bytes() / 4);
        let process = match state.process {
            Some(saver) => {
                let path = staging.path().join(MEMORY);
                let memory = File::open(&path).map_err(Error::io("open", &path))?;
                process::save(staging, saver, &memory, index.chunk_ranges(), max_bytes)
            }
            None => None,
        };

        // The manifest comes last: it contains the hashes of the other files.
        let [template, rootfs, layer] = pinned;
        let manifest = StateManifest {
            format: FORMAT,
            id: id.clone(),
            label: state.label.to_owned(),
            created: unix_seconds(),
            memory_bytes: state.memory_bytes,
            data_bytes: index.data_bytes(),
            index_sha256: hash::of_bytes(&encoded),
            devices_sha256: hash::of_bytes(state.devices),
            template,
            rootfs: rootfs.ok_or_else(no_rootfs)?,
            layer,
            process,
            description: state.description,
        };
        let text = manifest.encode().map_err(Error::io("encode", MANIFEST))?;
        staging.write_file(MANIFEST, &mut ignored, |file| file.write_all(&text))?;
        sync_directory(staging.path())?;

        self.install(staging, &id)
    }

    /// Makes the state visible. After an error it cannot be opened: a guest that continues must not be resumed as well.
    fn install(&self, staging: &mut StagingDir, id: &StateId) -> Result<StateSummary, Error> {
        let error = match staging.install(id.as_str(), StateSummary::load) {
            Ok(summary) => return Ok(summary),
            Err(error) => error,
        };

        // It may be visible, and only not be durable. Without a manifest, it cannot be opened.
        let path = self.cache.path(id.as_str());
        match fs::remove_file(path.join(MANIFEST)) {
            Err(remains) if remains.kind() != io::ErrorKind::NotFound => {
                // The state stays, so that its guest must not continue.
                let entry = self.cache.entry(id.as_str())?.ok_or(error)?;
                StateSummary::load(&entry)
            }
            _ => {
                let removed = self.cache.lock().and_then(|lock| {
                    let exists = path.exists();
                    exists
                        .then(|| self.cache.remove(id.as_str(), &lock))
                        .transpose()
                });
                if let Err(error) = removed {
                    tracing::warn!(%error, "cannot remove a state that was not written durably");
                }
                Err(error)
            }
        }
    }

    /// Pins the template, the root file system and the layer; returns them with the files that keep them pinned.
    fn pin_files(
        &self,
        state: &StateToSave<'_>,
    ) -> Result<([Option<PinnedFile>; 3], Vec<File>), Error> {
        self.create_pinned_directory()?;
        let pins = self.pins();
        let lock = self.cache.lock()?;
        let mut kept = Vec::new();
        let mut pin = |kind, needed: Option<NeededFile<'_>>| {
            let pinned = needed.map(|needed| pins.pin(kind, needed, &lock));
            let (record, file) = pinned.transpose()?.unzip();
            kept.extend(file);
            Ok::<_, Error>(record)
        };

        let records = [
            pin(PinKind::Template, state.template)?,
            pin(PinKind::Rootfs, Some(state.rootfs))?,
            pin(PinKind::Layer, state.layer)?,
        ];
        Ok((records, kept))
    }

    /// Says how much space was missing, if that was the reason.
    fn explain_full_disk(&self, error: Error, required: u64) -> Error {
        let error = error.or_disk_full(self.cache.root(), required);
        let is_full = matches!(error, Error::DiskFull { .. });
        match self.cache.require_space(required) {
            Err(missing @ Error::InsufficientSpace { .. }) if is_full => missing,
            _ => error,
        }
    }
}

fn no_rootfs() -> Error {
    Error::Inconsistent {
        item: "saved state",
        reason: "it has no root file system".to_owned(),
    }
}

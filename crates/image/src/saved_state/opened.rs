//! A saved state that was opened.

use std::fs::File;
use std::ops::Range;

use super::format::{DEVICES, INDEX, MAX_DEVICES_BYTES, MEMORY};
use super::index::{Chunk, PageIndex};
use super::manifest::{StateManifest, read_bounded};
use super::pages::{self, PageError};
use super::pins::{PinKind, Pins};
use super::process::StoredProcess;
use crate::artifact_cache::CacheEntry;
use crate::sparse::data_bytes;
use crate::{Error, hash};

/// A saved state that was opened and matches its manifest, except for its pages, which are checked when they are read. It
/// stays usable after it is removed from the store.
#[derive(Debug)]
pub struct OpenedState {
    manifest: StateManifest,
    devices: Vec<u8>,
    pages: StoredPages,
    rootfs: File,
    layer: Option<File>,
    process: Option<StoredProcess>,
}

/// The memory of a saved guest: its template and the pages that differ from it.
#[derive(Debug)]
pub struct StoredPages {
    entry: CacheEntry,
    index: PageIndex,
    memory: File,
    memory_bytes: u64,
    template: Option<File>,
}

impl OpenedState {
    /// Returns the state's manifest.
    #[must_use]
    pub fn manifest(&self) -> &StateManifest {
        &self.manifest
    }

    /// Returns the state of the devices.
    #[must_use]
    pub fn devices(&self) -> &[u8] {
        &self.devices
    }

    /// Returns the root file system, open for reading.
    #[must_use]
    pub fn rootfs(&self) -> &File {
        &self.rootfs
    }

    /// Returns the layer of packages, open for reading.
    #[must_use]
    pub fn layer(&self) -> Option<&File> {
        self.layer.as_ref()
    }

    /// Returns the memory.
    #[must_use]
    pub fn pages(&self) -> &StoredPages {
        &self.pages
    }

    /// Takes the memory out, and QEMU itself, if it was saved since the host was started.
    #[must_use]
    pub fn into_parts(self) -> (StoredPages, Option<StoredProcess>) {
        (self.pages, self.process)
    }

    pub(super) fn load(entry: CacheEntry, pins: &Pins) -> Result<Self, Error> {
        let manifest = StateManifest::load(&entry)?;
        let memory_bytes = manifest.memory_bytes;

        // The small files are read and hashed as a whole.
        let max_index_bytes = memory_bytes / super::format::CHUNK as u64 * 12;
        let index = read_checked(&entry, INDEX, max_index_bytes, &manifest.index_sha256)?;
        let index = PageIndex::decode(&index, memory_bytes)
            .map_err(|reason| entry.damaged(INDEX, reason))?;
        let devices = read_checked(&entry, DEVICES, MAX_DEVICES_BYTES, &manifest.devices_sha256)?;

        let memory = entry.open_file(MEMORY)?;
        let found = memory
            .metadata()
            .map_err(Error::io("inspect", entry.path().join(MEMORY)))?
            .len();
        if found != memory_bytes {
            let reason = format!("{found} bytes instead of {memory_bytes}");
            return Err(entry.damaged(MEMORY, reason));
        }

        let pinned = |kind: PinKind, file| {
            let opened = pins.open(kind, file);
            opened.map_err(|reason| damaged_pin(&entry, pins, kind, &file.sha256, reason))
        };
        let template = manifest.template.as_ref();
        let template = template.map(|file| pinned(PinKind::Template, file));
        let layer = manifest.layer.as_ref();
        let layer = layer.map(|file| pinned(PinKind::Layer, file)).transpose()?;
        let rootfs = pinned(PinKind::Rootfs, &manifest.rootfs)?;
        let template = template.transpose()?;

        let process = manifest.process.as_ref();
        let process = process.and_then(|process| StoredProcess::load(&entry, process));
        Ok(Self {
            manifest,
            devices,
            process,
            rootfs,
            layer,
            pages: StoredPages {
                entry,
                index,
                memory,
                memory_bytes,
                template,
            },
        })
    }
}

impl StoredPages {
    /// Writes all of the memory to an empty file, and checks each stored page.
    ///
    /// # Errors
    /// [`Error::DamagedState`] if a page has another checksum, and [`Error::Io`].
    pub fn fill(&self, to: &File) -> Result<(), Error> {
        let filled = pages::fill(
            &self.index,
            &self.memory,
            self.template.as_ref(),
            self.memory_bytes,
            to,
        );
        filled.map_err(|error| self.explain(error))
    }

    /// Checks each stored page.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub fn verify(&self) -> Result<(), Error> {
        pages::verify(&self.index, &self.memory).map_err(|error| self.explain(error))
    }

    /// Returns the memory of the template, open for reading.
    #[must_use]
    pub fn template(&self) -> Option<&File> {
        self.template.as_ref()
    }

    /// Returns the file with the stored pages at their own offsets, open for reading.
    #[must_use]
    pub fn memory(&self) -> &File {
        &self.memory
    }

    /// Returns the bytes of the memory that are stored or those of the template.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let template = self.template.as_ref().map(data_bytes);
        let template = template.and_then(Result::ok).unwrap_or(0);
        (self.index.data_bytes() + template).min(self.memory_bytes)
    }

    /// Returns the ranges of the memory that may differ from the template, in bytes and in order.
    #[must_use]
    pub fn changed(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for chunk in &self.index.chunks {
            for run in Chunk::runs(chunk.data | chunk.zeros) {
                let start = chunk.offset() + run.start as u64;
                let end = chunk.offset() + run.end as u64;
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => ranges.push(start..end),
                }
            }
        }
        ranges
    }

    fn explain(&self, error: PageError) -> Error {
        let path = self.entry.path().join(MEMORY);
        match error {
            PageError::Checksum(offset) => {
                let reason = format!("the pages at byte {offset} have another checksum");
                self.entry.damaged(MEMORY, reason)
            }
            PageError::Read(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.entry.damaged(MEMORY, "it is too short".to_owned())
            }
            PageError::Read(error) => Error::io("read", path)(error),
            PageError::Write(error) => Error::io("copy", path)(error),
        }
    }
}

/// Reads a small file whose hash is known.
fn read_checked(
    entry: &CacheEntry,
    name: &str,
    max_bytes: u64,
    sha256: &str,
) -> Result<Vec<u8>, Error> {
    let file = entry.open_file(name)?;
    let contents =
        read_bounded(file, max_bytes).map_err(|error| entry.damaged(name, error.to_string()))?;
    let found = hash::of_bytes(&contents);
    if found == sha256 {
        Ok(contents)
    } else {
        Err(entry.damaged(name, format!("sha256 {found} instead of {sha256}")))
    }
}

fn damaged_pin(
    entry: &CacheEntry,
    pins: &Pins,
    kind: PinKind,
    sha256: &str,
    reason: String,
) -> Error {
    Error::DamagedState {
        id: entry.name().to_owned(),
        part: kind.name().to_owned(),
        path: pins.path(kind, sha256),
        reason,
    }
}

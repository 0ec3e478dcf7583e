//! The manifest of a saved state.

use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::format::{
    CHUNK, FORMAT, MANIFEST, MAX_LABEL_BYTES, MAX_MANIFEST_BYTES, MAX_MEMORY_BYTES,
};
use super::id::StateId;
use crate::artifact_cache::{CacheEntry, is_digest};
use crate::{Error, hash};

/// The record of a saved state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateManifest {
    /// The version of the format.
    pub format: u32,
    /// The state's identifier.
    pub id: StateId,
    /// The caller's text, by which it finds the state again.
    pub label: String,
    /// The creation time, in seconds since 1970.
    pub created: u64,
    /// The size of the guest's memory in bytes.
    pub memory_bytes: u64,
    /// Bytes of the pages that are stored.
    pub data_bytes: u64,
    /// SHA-256 of the index of pages.
    pub index_sha256: String,
    /// SHA-256 of the devices' state.
    pub devices_sha256: String,
    /// The memory of the template that the guest was restored from; pages that are not stored are there.
    pub template: Option<PinnedFile>,
    /// The root file system.
    pub rootfs: PinnedFile,
    /// The layer of packages.
    pub layer: Option<PinnedFile>,
    /// QEMU itself with the code that it has translated, of use until the host is started again.
    #[serde(default)]
    pub process: Option<ProcessRecord>,
    /// The engine's description of the guest.
    pub description: serde_json::Value,
}

/// A file that a state needs and shares with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedFile {
    /// The digest of its content: the SHA-256, or
    /// [`TemplateManifest::ram_sha256`](crate::TemplateManifest::ram_sha256).
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The record of a QEMU that was saved with its guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// The id of the boot of the host.
    pub boot: String,
    /// SHA-256 of the engine's description.
    pub description_sha256: String,
    /// The size of its pages in bytes.
    pub pages_bytes: u64,
    /// CRC-32C of its pages.
    pub pages_crc32c: u32,
}

/// The first field of each format.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl StateManifest {
    /// Encodes the manifest for its file.
    pub(super) fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        let checksum = hash::of_bytes(&text);
        text.extend(format!("\n\"{checksum}\"\n").bytes());
        Ok(text)
    }

    /// Reads and checks the manifest of an entry.
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        let text = read_bounded(entry.open_file(MANIFEST)?, MAX_MANIFEST_BYTES)
            .map_err(Error::io("read", entry.path().join(MANIFEST)))?;
        let line = checked_line(&text).map_err(|reason| entry.damaged(MANIFEST, reason))?;
        let damaged = |error: serde_json::Error| entry.damaged(MANIFEST, error.to_string());

        let Version { format } = serde_json::from_slice(line).map_err(damaged)?;
        if format > FORMAT {
            return Err(Error::NewerState {
                id: entry.name().to_owned(),
                found: format,
                supported: FORMAT,
                path: entry.path().join(MANIFEST),
            });
        }

        let manifest = Self::decode(line).map_err(|reason| entry.damaged(MANIFEST, reason))?;
        if manifest.id.as_str() != entry.name() {
            let reason = format!("it belongs to the state {}", manifest.id);
            return Err(entry.damaged(MANIFEST, reason));
        }
        Ok(manifest)
    }

    /// Parses and checks the first line of a manifest.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    pub fn decode(line: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let files = [&manifest.rootfs].into_iter();
        let files = files.chain(&manifest.template).chain(&manifest.layer);
        let digests = files.map(|file| &file.sha256);
        let own = [&manifest.index_sha256, &manifest.devices_sha256];
        let process = manifest.process.as_ref();
        let own = own
            .into_iter()
            .chain(process.map(|process| &process.description_sha256));

        if !digests.chain(own).all(|digest| is_digest(digest)) {
            return Err("a digest does not have 64 hexadecimal digits".to_owned());
        }
        if manifest.label.len() > MAX_LABEL_BYTES {
            return Err(format!("its label has more than {MAX_LABEL_BYTES} bytes"));
        }
        let bytes = manifest.memory_bytes;
        if bytes == 0 || bytes > MAX_MEMORY_BYTES || !bytes.is_multiple_of(CHUNK as u64) {
            return Err(format!("the memory cannot have {bytes} bytes"));
        }
        Ok(manifest)
    }
}

/// Returns the first line, if the second one is its checksum.
fn checked_line(text: &[u8]) -> Result<&[u8], String> {
    let mut lines = text.splitn(2, |byte| *byte == b'\n');
    let line = lines.next().unwrap_or_default();
    let expected = format!("\"{}\"\n", hash::of_bytes(line));
    if lines.next() == Some(expected.as_bytes()) {
        Ok(line)
    } else {
        Err("its checksum is another one".to_owned())
    }
}

/// Reads all of a file that must not be larger than this.
pub(super) fn read_bounded(file: File, max_bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > max_bytes {
        let message = format!("it has more than {max_bytes} bytes");
        return Err(std::io::Error::other(message));
    }
    Ok(contents)
}

//! The manifest of a template.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::format::{FORMAT, MANIFEST};
use super::key::TemplateKey;
use crate::Error;
use crate::artifact_cache::CacheEntry;

/// The record of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateManifest {
    /// The version of the format.
    pub format: u32,
    /// The [`TemplateKey`] of `inputs`.
    pub key: String,
    /// Everything that the template depends on, such as the language, the guest's memory and the image's id.
    pub inputs: BTreeMap<String, String>,
    /// The creation time, in seconds since 1970.
    pub created: u64,
    /// The size of the guest's memory in bytes, including zeros.
    pub ram_bytes: u64,
    /// Bytes of the memory's pages that contain data.
    pub ram_data_bytes: u64,
    /// SHA-256 over `ram_bytes` (8 bytes, little-endian) and, for each page of 4096 bytes that contains data,
    /// its offset (likewise) and its contents. Pages of zeros cost nothing, and the positions of holes in the
    /// file do not matter.
    pub ram_sha256: String,
    /// The size of the devices' state in bytes.
    pub state_bytes: u64,
    /// SHA-256 of the devices' state.
    pub state_sha256: String,
}

impl TemplateManifest {
    /// Reads and checks the manifest of a template.
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        let text = entry.read_file(MANIFEST)?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|e| entry.damaged(MANIFEST, e.to_string()))?;
        if manifest.format != FORMAT {
            let reason = format!("format {} instead of {FORMAT}", manifest.format);
            return Err(entry.damaged(MANIFEST, reason));
        }

        if manifest.key != entry.name()
            || TemplateKey::of(&manifest.inputs).as_str() != entry.name()
        {
            return Err(entry.damaged(MANIFEST, "it belongs to another template".to_owned()));
        }

        Ok(manifest)
    }
}

//! The manifest of a layer.

use serde::{Deserialize, Serialize};

use super::format::{FORMAT, MANIFEST};
use crate::Error;
use crate::artifact_cache::CacheEntry;

/// A package of a layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoredPackage {
    /// The package's name, as its tool spells it.
    pub name: String,
    /// The exact version.
    pub version: String,
}

/// The record of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerManifest {
    /// The version of the format.
    pub format: u32,
    /// SHA-256 of the file system, which is also the layer's name.
    pub digest: String,
    /// The file system's size in bytes.
    pub bytes: u64,
    /// The key of the resolved set of packages.
    pub set: String,
    /// The language of the packages.
    pub language: String,
    /// The id of the image in which they were installed.
    pub image: String,
    /// All packages, including dependencies.
    pub packages: Vec<StoredPackage>,
    /// The package specifications of the first request.
    pub requested: Vec<String>,
    /// The creation time, in seconds since 1970.
    pub created: u64,
}

impl LayerManifest {
    /// Reads and checks the manifest of a layer.
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        let text = entry.read_file(MANIFEST)?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|e| entry.damaged(MANIFEST, e.to_string()))?;
        if manifest.format != FORMAT {
            let reason = format!("format {} instead of {FORMAT}", manifest.format);
            return Err(entry.damaged(MANIFEST, reason));
        }

        if manifest.digest != entry.name() {
            return Err(entry.damaged(MANIFEST, "it belongs to another layer".to_owned()));
        }

        Ok(manifest)
    }
}

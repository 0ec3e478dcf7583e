//! The list of all layers.

use std::path::PathBuf;
use std::time::SystemTime;

use super::layers::Layers;
use super::manifest::LayerManifest;
use crate::Error;

/// One layer of a store, as it was found.
#[derive(Debug)]
pub struct LayerSummary {
    /// SHA-256 of its file system, under which it lies in the store.
    pub digest: String,
    /// Its directory.
    pub directory: PathBuf,
    /// What is in it, or why that cannot be said.
    pub manifest: Result<LayerManifest, Error>,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last asked for, or made.
    pub last_used: SystemTime,
}

impl Layers {
    /// Every finished layer of the store, by digest. Nothing is hashed, and no use is noted.
    ///
    /// # Errors
    /// When the store cannot be read; a store that does not exist yet is empty.
    pub fn list(&self) -> Result<Vec<LayerSummary>, Error> {
        let entries = self.cache.entries()?;
        let listed = entries.iter().map(|entry| LayerSummary {
            digest: entry.name().to_owned(),
            directory: entry.path().to_path_buf(),
            manifest: LayerManifest::load(entry),
            bytes: entry.bytes(),
            last_used: entry.last_used(),
        });

        Ok(listed.collect())
    }
}

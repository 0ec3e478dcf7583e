//! The list of all layers.

use std::path::PathBuf;
use std::time::SystemTime;

use super::layers::Layers;
use super::manifest::LayerManifest;
use crate::Error;

/// A layer in the list of a store.
#[derive(Debug)]
pub struct LayerSummary {
    /// SHA-256 of the file system, which is also the layer's name.
    pub digest: String,
    /// The layer's directory.
    pub directory: PathBuf,
    /// The layer's manifest, or the error that occurred on reading it.
    pub manifest: Result<LayerManifest, Error>,
    /// The size on disk in bytes.
    pub bytes: u64,
    /// The time of the last use, or of the creation.
    pub last_used: SystemTime,
}

impl Layers {
    /// Returns all finished layers, sorted by digest. Nothing is hashed, and no use is recorded.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read. A store that does not exist yet is empty.
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

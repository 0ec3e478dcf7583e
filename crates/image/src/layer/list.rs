use std::path::PathBuf;
use std::time::SystemTime;

use super::{LayerManifest, Layers};
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
        let places = self.shelf.places()?;
        let listed = places.iter().map(|place| LayerSummary {
            digest: place.name().to_owned(),
            directory: place.path().to_path_buf(),
            manifest: LayerManifest::load(place),
            bytes: place.bytes(),
            last_used: place.last_used(),
        });
        Ok(listed.collect())
    }
}

//! Writing a new layer.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::format::{FORMAT, LAYER, MANIFEST};
use super::key::LayerKey;
use super::manifest::{LayerManifest, StoredPackage};
use super::stored_layer::StoredLayer;
use crate::artifact_cache::StagingDir;
use crate::clock::unix_seconds;
use crate::store::{Identities, Identity, save_identities, sync_directory};
use crate::{Error, hash};

/// Bytes of a layer in addition to its file system: manifest, identities and directory.
const MARGIN: u64 = 1 << 20;

/// A layer that is being created. No other writer exists for the same request, and the layer is not visible
/// before [`finish`](Self::finish) returns. Dropping the writer removes its files.
#[derive(Debug)]
pub struct LayerWriter {
    staging: StagingDir,
}

impl LayerWriter {
    pub(super) fn new(staging: StagingDir) -> Self {
        Self { staging }
    }

    /// Creates an empty file for a file system of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::InsufficientSpace`] or [`Error::Io`].
    pub fn file(&self, bytes: u64) -> Result<File, Error> {
        self.staging
            .cache()
            .require_space(bytes.saturating_add(MARGIN))?;

        let path = self.path();
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("create", &path))
    }

    /// Installs the layer atomically. `set` is the key of the resolved packages.
    ///
    /// # Errors
    /// [`Error::Io`]. No files are left behind.
    pub fn finish(
        mut self,
        set: &LayerKey,
        language: &str,
        image: &str,
        packages: Vec<StoredPackage>,
        requested: Vec<String>,
    ) -> Result<StoredLayer, Error> {
        // Flush and hash what the guest wrote.
        let path = self.path();
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        file.sync_all().map_err(Error::io("flush", &path))?;
        let digest = hash::of_file(&mut file, &path)?;
        let identity = Identity::of(&file, &path)?;

        let manifest = LayerManifest {
            format: FORMAT,
            digest,
            bytes: file.metadata().map_err(Error::io("inspect", &path))?.len(),
            set: set.to_string(),
            language: language.to_owned(),
            image: image.to_owned(),
            packages,
            requested,
            created: unix_seconds(),
        };

        self.staging
            .write_file(MANIFEST, &mut Identities::new(), |file| {
                std::io::Write::write_all(file, &serde_json::to_vec_pretty(&manifest)?)
            })?;

        let identities = Identities::from([(LAYER.to_owned(), identity)]);
        save_identities(self.staging.path(), &identities)?;
        sync_directory(self.staging.path())?;

        self.staging.install(&manifest.digest, StoredLayer::load)
    }

    fn path(&self) -> PathBuf {
        self.staging.path().join(LAYER)
    }
}

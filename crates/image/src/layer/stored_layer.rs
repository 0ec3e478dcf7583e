//! A finished layer.

use std::path::{Path, PathBuf};

use super::format::LAYER;
use super::manifest::LayerManifest;
use crate::artifact_cache::CacheEntry;
use crate::store::{Identities, Identity, save_identities};
use crate::{Error, hash};

/// A layer that matches its manifest.
#[derive(Debug, Clone)]
pub struct StoredLayer {
    manifest: LayerManifest,
    path: PathBuf,
}

impl StoredLayer {
    /// Returns the layer's manifest.
    pub fn manifest(&self) -> &LayerManifest {
        &self.manifest
    }

    /// Returns the path of the file system. Open it immediately: pruning removes the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads and checks an entry. The file is hashed only if its identity changed since its last hash.
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        let manifest = LayerManifest::load(entry)?;
        let path = entry.path().join(LAYER);
        let mut file = entry.open_file(LAYER)?;
        let identity = Identity::of(&file, &path)?;

        if entry.identities().get(LAYER) != Some(&identity) {
            let found = hash::of_file(&mut file, &path)?;
            if found != manifest.digest {
                let reason = format!("sha256 {found} instead of {}", manifest.digest);
                return Err(entry.damaged(LAYER, reason));
            }

            // A user without write access hashes again the next time.
            let seen = Identities::from([(LAYER.to_owned(), identity)]);
            if let Err(error) = save_identities(entry.path(), &seen) {
                tracing::debug!(%error, "cannot record a layer's identity");
            }
        }

        Ok(Self { manifest, path })
    }
}

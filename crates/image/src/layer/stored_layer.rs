//! A finished layer.

use std::path::{Path, PathBuf};

use super::format::LAYER;
use super::manifest::LayerManifest;
use crate::artifact_cache::CacheEntry;
use crate::store::{Identities, Identity, save_identities};
use crate::{Error, hash};

/// A layer, known to be what its manifest says.
#[derive(Debug, Clone)]
pub struct StoredLayer {
    manifest: LayerManifest,
    path: PathBuf,
}

impl StoredLayer {
    /// What it is.
    pub fn manifest(&self) -> &LayerManifest {
        &self.manifest
    }

    /// The file system. To be opened at once: a layer that is pruned is gone by its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at what lies in this place. What looks as it did after the last hash is not hashed again.
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        let manifest = LayerManifest::load(entry)?;
        let path = entry.path().join(LAYER);
        let mut file = entry.part(LAYER)?;
        let identity = Identity::of(&file, &path)?;

        if entry.identities().get(LAYER) != Some(&identity) {
            let found = hash::of_file(&mut file, &path)?;
            if found != manifest.digest {
                let reason = format!("sha256 {found} instead of {}", manifest.digest);
                return Err(entry.damaged(LAYER, reason));
            }

            // Whoever may only read the store hashes again the next time.
            let seen = Identities::from([(LAYER.to_owned(), identity)]);
            if let Err(error) = save_identities(entry.path(), &seen) {
                tracing::debug!(%error, "cannot remember a layer's identity");
            }
        }

        Ok(Self { manifest, path })
    }
}

//! The layers of a store.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::SystemTime;

use super::format::REQUESTS;
use super::key::LayerKey;
use super::manifest::LayerManifest;
use super::stored_layer::StoredLayer;
use super::writer::LayerWriter;
use crate::Error;
use crate::artifact_cache::{ArtifactCache, ArtifactKind, CacheEntry, PruneReport, is_digest};
use crate::store::{Store, replace_file};

/// Bytes on disk that layers may take when nobody says otherwise: 8 GiB, some eighty of such packages as numpy and
/// pandas (100 MB), or a few of the largest.
pub const LAYERS_BYTES: u64 = 8 << 30;

/// The layers of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    pub(super) cache: ArtifactCache,
}

impl Store {
    /// The layers of this store.
    pub fn layers(&self) -> Layers {
        Layers {
            cache: ArtifactCache::new(self, "layers", ArtifactKind::Layer),
        }
    }
}

impl Layers {
    /// What a request came to, if it was made before and its layer is there still; a use is noted. A layer that is
    /// damaged is thrown away, with a warning, and is as if it had never been there.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read for a reason that is not damage.
    pub fn find(&self, request: &LayerKey) -> Result<Option<StoredLayer>, Error> {
        let Some(digest) = self.digest(request)? else {
            return Ok(None);
        };

        match self.cache.entry(&digest)? {
            Some(entry) => self.open(&entry),
            None => Ok(None),
        }
    }

    /// The name of the layer that a request came to.
    fn digest(&self, request: &LayerKey) -> Result<Option<String>, Error> {
        let path = self.request(request);
        match fs::read_to_string(&path) {
            Ok(digest) => Ok(Some(digest).filter(|digest| is_digest(digest))),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// A layer of this resolved set, if there is one; a use is noted.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_set(&self, set: &LayerKey) -> Result<Option<StoredLayer>, Error> {
        let is_it = |entry: &CacheEntry| {
            LayerManifest::load(entry).is_ok_and(|manifest| manifest.set == set.as_str())
        };

        match self.cache.entries()?.iter().find(|entry| is_it(entry)) {
            Some(entry) => self.open(entry),
            None => Ok(None),
        }
    }

    fn open(&self, entry: &CacheEntry) -> Result<Option<StoredLayer>, Error> {
        match StoredLayer::load(entry) {
            Ok(layer) => {
                entry.mark_used(SystemTime::now());
                Ok(Some(layer))
            }
            Err(_) if !entry.is_current() => Ok(None),
            Err(error @ Error::DamagedLayer { .. }) => {
                self.cache.discard(entry, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to make the layer of a request. `None` when another thread or process does, or has just done so; with
    /// `force` that it is there does not matter. What dead makers left behind is swept. The right to make it falls with the [`LayerWriter`], or with the process.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot be written to, [`Error::Locked`] when another process hangs while it
    /// changes the layers.
    pub fn create(&self, request: &LayerKey, force: bool) -> Result<Option<LayerWriter>, Error> {
        let is_there = || {
            let digest = self.digest(request).ok().flatten();
            !force && digest.is_some_and(|digest| self.cache.path(&digest).exists())
        };
        let staging = self.cache.create(request.as_str(), is_there)?;
        Ok(staging.map(LayerWriter::new))
    }

    /// Has a request find this layer from now on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record_request(&self, request: &LayerKey, layer: &StoredLayer) -> Result<(), Error> {
        let directory = self.requests();
        fs::create_dir_all(&directory).map_err(Error::io("make", &directory))?;
        replace_file(
            &directory,
            request.as_str(),
            layer.manifest().digest.as_bytes(),
        )
    }

    /// Removes layers that are damaged or half made, and then the least recently used ones until at most
    /// `max_bytes` are on disk, with what requests came to them. One that is being made stays, and one that is in
    /// use stays usable there.
    ///
    /// # Errors
    /// When the store cannot be read or changed; one layer that cannot be removed is a warning.
    pub fn prune(&self, max_bytes: u64) -> Result<PruneReport, Error> {
        let is_wanted = |entry: &CacheEntry| StoredLayer::load(entry).is_ok();
        let report = self.cache.prune(max_bytes, is_wanted)?;
        self.forget()?;
        Ok(report)
    }

    /// Removes what is said of requests whose layer is gone, and what is none.
    fn forget(&self) -> Result<(), Error> {
        let directory = self.requests();
        let entries = match fs::read_dir(&directory) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", &directory))?,
        };

        let _lock = self.cache.lock()?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", &directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let digest = fs::read_to_string(&path).unwrap_or_default();
            let is_of_use = name.and_then(LayerKey::from_name).is_some()
                && is_digest(&digest)
                && self.cache.path(&digest).exists();

            if !is_of_use && let Err(error) = fs::remove_file(&path) {
                tracing::debug!(%error, "cannot remove what is said of a request");
            }
        }

        Ok(())
    }

    fn requests(&self) -> PathBuf {
        self.cache.root().join(REQUESTS)
    }

    pub(super) fn request(&self, request: &LayerKey) -> PathBuf {
        self.requests().join(request.as_str())
    }
}

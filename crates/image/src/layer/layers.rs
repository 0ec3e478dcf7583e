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

/// The default limit of the layers' size on disk: 8 GiB, about eighty layers of packages such as numpy and
/// pandas (100 MB), or a few of the largest.
pub const LAYERS_BYTES: u64 = 8 << 30;

/// The layers of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    pub(super) cache: ArtifactCache,
}

impl Store {
    /// Returns the layers of this store.
    pub fn layers(&self) -> Layers {
        Layers {
            cache: ArtifactCache::new(self, "layers", ArtifactKind::Layer),
        }
    }
}

impl Layers {
    /// Returns the cache that holds the layers.
    pub(crate) fn into_cache(self) -> ArtifactCache {
        self.cache
    }

    /// Returns the layer that a request resolved to, if it exists, and records the use. A damaged layer is
    /// removed with a warning and treated as missing.
    ///
    /// # Errors
    /// [`Error::Io`] if the layer cannot be read for a reason other than damage.
    pub fn find(&self, request: &LayerKey) -> Result<Option<StoredLayer>, Error> {
        let Some(digest) = self.digest_of(request)? else {
            return Ok(None);
        };

        match self.cache.entry(&digest)? {
            Some(entry) => self.open(&entry),
            None => Ok(None),
        }
    }

    /// Returns the digest of the layer that a request resolved to.
    fn digest_of(&self, request: &LayerKey) -> Result<Option<String>, Error> {
        let path = self.request_path(request);
        match fs::read_to_string(&path) {
            Ok(digest) => Ok(Some(digest).filter(|digest| is_digest(digest))),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// Returns the time at which a request was resolved; `None` if that is unknown.
    pub fn resolved_at(&self, request: &LayerKey) -> Option<SystemTime> {
        let record = fs::metadata(self.request_path(request)).ok()?;
        record.modified().ok()
    }

    /// Returns the layer of a resolved set of packages, if it exists, and records the use.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_set(&self, set: &LayerKey) -> Result<Option<StoredLayer>, Error> {
        let has_set = |entry: &CacheEntry| {
            LayerManifest::load(entry).is_ok_and(|manifest| manifest.set == set.as_str())
        };

        match self.cache.entries()?.iter().find(|entry| has_set(entry)) {
            Some(entry) => self.open(entry),
            None => Ok(None),
        }
    }

    /// Returns the layer with this digest of its file system, if it exists.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_digest(&self, digest: &str) -> Result<Option<StoredLayer>, Error> {
        if !is_digest(digest) {
            return Ok(None);
        }
        match self.cache.entry(digest)? {
            Some(entry) => self.open(&entry),
            None => Ok(None),
        }
    }

    /// Loads an entry, recording the use. A damaged or removed entry counts as missing.
    fn open(&self, entry: &CacheEntry) -> Result<Option<StoredLayer>, Error> {
        match StoredLayer::load(entry) {
            Ok(layer) => {
                entry.mark_used(SystemTime::now());
                Ok(Some(layer))
            }
            Err(_) if !entry.is_current() => Ok(None),
            Err(error) if error.is_damage() => {
                self.cache.discard(entry, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Starts creating the layer of a request. Returns `None` if another thread or process is creating it, or
    /// if it exists already; with `force`, an existing layer is replaced. Leftovers of dead processes are
    /// swept. The reservation ends with the [`LayerWriter`], or with the process.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written, [`Error::Locked`] if another process does not release
    /// the lock of the layers.
    pub fn create(&self, request: &LayerKey, force: bool) -> Result<Option<LayerWriter>, Error> {
        let exists = || {
            let digest = self.digest_of(request).ok().flatten();
            !force && digest.is_some_and(|digest| self.cache.path(&digest).exists())
        };
        let staging = self.cache.create(request.as_str(), exists)?;
        Ok(staging.map(LayerWriter::new))
    }

    /// Records that a request resolves to this layer.
    ///
    /// # Errors
    /// [`Error::Io`] if the record cannot be written.
    pub fn record_request(&self, request: &LayerKey, layer: &StoredLayer) -> Result<(), Error> {
        let directory = self.requests_dir();
        fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        replace_file(
            &directory,
            request.as_str(),
            layer.manifest().digest.as_bytes(),
        )
    }

    /// Removes damaged and unfinished layers, and then the least recently used ones until at most `max_bytes`
    /// remain on disk. The records of their requests are removed too. A layer that is being created stays,
    /// and a layer that is open elsewhere remains usable there.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read or changed. A layer that cannot be removed only causes a
    /// warning.
    pub fn prune(&self, max_bytes: u64) -> Result<PruneReport, Error> {
        let is_wanted =
            |entry: &CacheEntry| !StoredLayer::load(entry).is_err_and(|error| error.is_damage());
        let report = self.cache.prune(max_bytes, is_wanted)?;
        self.remove_stale_requests()?;
        Ok(report)
    }

    /// Removes the records of requests whose layer no longer exists, and files that are not records.
    fn remove_stale_requests(&self) -> Result<(), Error> {
        let directory = self.requests_dir();
        let entries = match fs::read_dir(&directory) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", &directory))?,
        };

        // Under the lock, so that no layer is installed between the check and the removal.
        let _lock = self.cache.lock()?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", &directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let digest = fs::read_to_string(&path).unwrap_or_default();
            let is_valid = name.and_then(LayerKey::from_name).is_some()
                && is_digest(&digest)
                && self.cache.path(&digest).exists();

            if !is_valid && let Err(error) = fs::remove_file(&path) {
                tracing::debug!(%error, "cannot remove the record of a request");
            }
        }

        Ok(())
    }

    fn requests_dir(&self) -> PathBuf {
        self.cache.root().join(REQUESTS)
    }

    pub(super) fn request_path(&self, request: &LayerKey) -> PathBuf {
        self.requests_dir().join(request.as_str())
    }
}

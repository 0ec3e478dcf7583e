use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::draft::LayerWriter;
use super::{LAYER, LayerKey, LayerManifest, REQUESTS};
use crate::identity::{Identities, Identity};
use crate::shelf::{Kind, Place, PruneReport, Shelf, is_name};
use crate::{Error, Store, hash, image};

/// The layers of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    pub(super) shelf: Shelf,
}

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
    pub(super) fn load(place: &Place) -> Result<Self, Error> {
        let manifest = LayerManifest::load(place)?;
        let path = place.path().join(LAYER);
        let mut file = place.part(LAYER)?;
        let identity = Identity::of(&file, &path)?;
        if place.identities().get(LAYER) != Some(&identity) {
            let found = hash::of_file(&mut file, &path)?;
            if found != manifest.digest {
                let why = format!("sha256 {found} instead of {}", manifest.digest);
                return Err(place.damaged(LAYER, why));
            }
            // Whoever may only read the store hashes again the next time.
            let seen = Identities::from([(LAYER.to_owned(), identity)]);
            if let Err(error) = image::record(place.path(), &seen) {
                tracing::debug!(%error, "cannot remember a layer's identity");
            }
        }
        Ok(Self { manifest, path })
    }
}

impl Store {
    /// The layers of this store.
    pub fn layers(&self) -> Layers {
        Layers {
            shelf: Shelf::new(self, "layers", Kind::Layer),
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
        match self.shelf.place(&digest)? {
            Some(place) => self.open(&place),
            None => Ok(None),
        }
    }

    /// The name of the layer that a request came to.
    fn digest(&self, request: &LayerKey) -> Result<Option<String>, Error> {
        let path = self.request(request);
        match fs::read_to_string(&path) {
            Ok(digest) => Ok(Some(digest).filter(|digest| is_name(digest))),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// A layer of this resolved set, if there is one; a use is noted.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_set(&self, set: &LayerKey) -> Result<Option<StoredLayer>, Error> {
        let is_it = |place: &Place| {
            LayerManifest::load(place).is_ok_and(|manifest| manifest.set == set.as_str())
        };
        match self.shelf.places()?.iter().find(|place| is_it(place)) {
            Some(place) => self.open(place),
            None => Ok(None),
        }
    }

    fn open(&self, place: &Place) -> Result<Option<StoredLayer>, Error> {
        match StoredLayer::load(place) {
            Ok(layer) => {
                place.mark_used(SystemTime::now());
                Ok(Some(layer))
            }
            Err(_) if !place.is_still_there() => Ok(None),
            Err(error @ Error::DamagedLayer { .. }) => {
                self.shelf.throw_away(place, &error);
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
            !force && digest.is_some_and(|digest| self.shelf.path(&digest).exists())
        };
        let work = self.shelf.create(request.as_str(), is_there)?;
        Ok(work.map(LayerWriter::new))
    }

    /// Has a request find this layer from now on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record_request(&self, request: &LayerKey, layer: &StoredLayer) -> Result<(), Error> {
        let directory = self.requests();
        fs::create_dir_all(&directory).map_err(Error::io("make", &directory))?;
        let temporary = tempfile::NamedTempFile::new_in(&directory)
            .map_err(Error::io("make a file in", &directory))?;
        let path = self.request(request);
        fs::write(temporary.path(), &layer.manifest.digest).map_err(Error::io("write", &path))?;
        let kept = temporary.persist(&path);
        kept.map_err(|e| Error::io("replace", &path)(e.error))?;
        Ok(())
    }

    /// Removes layers that are damaged or half made, and then the least recently used ones until at most
    /// `most_bytes` are on disk, with what requests came to them. One that is being made stays, and one that is in
    /// use stays usable there.
    ///
    /// # Errors
    /// When the store cannot be read or changed; one layer that cannot be removed is a warning.
    pub fn prune(&self, most_bytes: u64) -> Result<PruneReport, Error> {
        let is_wanted = |place: &Place| StoredLayer::load(place).is_ok();
        let report = self.shelf.prune(most_bytes, is_wanted)?;
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
        let _lock = self.shelf.lock()?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", &directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let digest = fs::read_to_string(&path).unwrap_or_default();
            let is_of_use = name.and_then(LayerKey::from_name).is_some()
                && is_name(&digest)
                && self.shelf.path(&digest).exists();
            if !is_of_use && let Err(error) = fs::remove_file(&path) {
                tracing::debug!(%error, "cannot remove what is said of a request");
            }
        }
        Ok(())
    }

    fn requests(&self) -> PathBuf {
        self.shelf.root().join(REQUESTS)
    }

    pub(super) fn request(&self, request: &LayerKey) -> PathBuf {
        self.requests().join(request.as_str())
    }
}

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::layers::StoredLayer;
use super::{FORMAT, LAYER, MANIFEST};
use super::{LayerKey, LayerManifest, StoredPackage};
use crate::identity::{Identities, Identity};
use crate::shelf::Work;
use crate::store::sync_directory;
use crate::{Error, hash, image};

/// What a layer takes besides the file system: manifest, identities, the file system's own. Bytes.
const MARGIN: u64 = 1 << 20;

/// A layer in the making. Nobody else makes one for the same request meanwhile, and nobody finds it before
/// [`finish`](Self::finish) is through. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct LayerWriter {
    work: Work,
}

impl LayerWriter {
    pub(super) fn new(work: Work) -> Self {
        Self { work }
    }

    /// An empty file for the file system of so many bytes.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::Io`].
    pub fn file(&self, bytes: u64) -> Result<File, Error> {
        self.work.shelf().need_room(bytes.saturating_add(MARGIN))?;
        let path = self.path();
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&path).map_err(Error::io("make", &path))
    }

    /// Puts the layer in its place in one step. `set` is the key of the resolved packages.
    ///
    /// # Errors
    /// [`Error::Io`]. Nothing is left behind.
    pub fn finish(
        mut self,
        set: &LayerKey,
        language: &str,
        image: &str,
        packages: Vec<StoredPackage>,
        requested: Vec<String>,
    ) -> Result<StoredLayer, Error> {
        let path = self.path();
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        file.sync_all().map_err(Error::io("write out", &path))?;
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
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        };
        self.work.part(MANIFEST, &mut Identities::new(), |file| {
            std::io::Write::write_all(file, &serde_json::to_vec_pretty(&manifest)?)
        })?;
        let identities = Identities::from([(LAYER.to_owned(), identity)]);
        image::record(self.work.path(), &identities)?;
        sync_directory(self.work.path())?;
        self.work.install(&manifest.digest, StoredLayer::load)
    }

    fn path(&self) -> PathBuf {
        self.work.path().join(LAYER)
    }
}

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};

/// A read-only disk that is mounted over the guest's own tree: packages that were installed once. It contains an erofs
/// file system, as `mkfs.erofs` writes it. Cheap to clone; layers with the same digest are equal.
#[derive(Debug, Clone)]
pub struct Layer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    digest: String,
}

impl Layer {
    /// Opens the file at `path`. Its content must never change; templates are distinguished by its `digest`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Missing`].
    pub fn open(path: &Path, digest: impl Into<String>) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| {
            let message = format!("cannot open the layer {}: {e}", path.display());
            Error::new(ErrorKind::Missing, message)
        })?;
        Ok(Self::new(file, digest))
    }

    /// Takes an open file. Its content must never change.
    pub(crate) fn new(file: File, digest: impl Into<String>) -> Self {
        let digest = digest.into();
        Self(Arc::new(Inner { file, digest }))
    }

    /// Returns the file, open for reading.
    pub(crate) fn file(&self) -> &File {
        &self.0.file
    }

    /// Returns the digest of the content.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// Duplicates the descriptor, for QEMU to inherit.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`].
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.0.file.try_clone().map(OwnedFd::from).map_err(|e| {
            let digest = self.digest();
            let message = format!("cannot duplicate the descriptor of the layer {digest}: {e}");
            Error::new(ErrorKind::Host, message)
        })
    }
}

impl PartialEq for Layer {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Layer {}

impl Hash for Layer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_with_the_same_digest_are_equal() {
        let open = |digest: &str| Layer::open(Path::new("/dev/null"), digest).unwrap();
        assert_eq!(open("a"), open("a"));
        assert_ne!(open("a"), open("b"));
        let missing = Layer::open(Path::new("/dev/null/x"), "a").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Missing);
    }
}

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};

/// A read-only disk whose tree guests see over their own: packages, prepared once. An erofs file system, such
/// as `mkfs.erofs` writes. Cheap to clone; two of one digest are the same.
#[derive(Debug, Clone)]
pub struct Layer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    digest: String,
}

impl Layer {
    /// The file at `path`, whose contents never change and are known by `digest`: templates are told apart by it.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`].
    pub fn open(path: &Path, digest: impl Into<String>) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| {
            let message = format!("the layer {} cannot be opened: {e}", path.display());
            Error::new(ErrorKind::Missing, message)
        })?;
        let digest = digest.into();
        Ok(Self(Arc::new(Inner { file, digest })))
    }

    /// What tells its contents from others.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// A descriptor of it, for QEMU to inherit.
    ///
    /// # Errors
    /// [`ErrorKind::Host`].
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.0.file.try_clone().map(OwnedFd::from).map_err(|e| {
            let message = format!("no descriptor for the layer {}: {e}", self.digest());
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
    fn a_layer_is_its_digest() {
        let open = |digest: &str| Layer::open(Path::new("/dev/null"), digest).unwrap();
        assert_eq!(open("a"), open("a"));
        assert_ne!(open("a"), open("b"));
        let missing = Layer::open(Path::new("/dev/null/x"), "a").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Missing);
    }
}

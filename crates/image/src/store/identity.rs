//! Recognises unchanged files without hashing them.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::durability::replace_file;
use crate::Error;

/// The file beside the manifest that records the identities of the parts at their last hash.
pub(crate) const IDENTITY_FILE: &str = "identity.json";

/// The metadata of a file that changes with its contents. A file whose identity is the same as at its last
/// hash is taken to be unchanged, because every write updates the ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Identity {
    /// Returns the identity of an open descriptor, so that the checked file is the one that is used.
    pub(crate) fn of(file: &File, path: &Path) -> Result<Self, Error> {
        let metadata = file.metadata().map_err(Error::io("inspect", path))?;
        Ok(Self::from(&metadata))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The identities of an image's parts, by part name.
pub(crate) type Identities = BTreeMap<String, Identity>;

/// Loads a record of identities. Returns an empty one if it cannot be read, which only costs hashing.
pub(crate) fn load_identities(path: &Path) -> Identities {
    parse_identities(&std::fs::read(path).unwrap_or_default())
}

/// Parses a record of identities. Returns an empty one if it is invalid.
pub(crate) fn parse_identities(text: &[u8]) -> Identities {
    serde_json::from_slice(text).unwrap_or_default()
}

/// Writes the record of identities into `directory`.
pub(crate) fn save_identities(directory: &Path, identities: &Identities) -> Result<(), Error> {
    let path = directory.join(IDENTITY_FILE);
    let text =
        serde_json::to_vec_pretty(identities).map_err(|e| Error::io("write", &path)(e.into()))?;
    replace_file(directory, IDENTITY_FILE, &text)
}

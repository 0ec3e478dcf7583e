//! Hashes of programs that are not ours, taken once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::{Error, Store, hash};

/// What a file looked like, and what it hashed to.
#[derive(Serialize, Deserialize)]
struct Known {
    identity: Identity,
    sha256: String,
}

impl Store {
    /// The SHA-256 of a file that changes rarely. It is hashed once, and again when it looks different.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn fingerprint(&self, path: &Path) -> Result<String, Error> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let identity = Identity::of(&file, path)?;
        let cache = self.cache("fingerprints.json");
        let text = fs::read(&cache).unwrap_or_default();
        let mut known: BTreeMap<String, Known> = serde_json::from_slice(&text).unwrap_or_default();
        let name = path.display().to_string();
        if let Some(entry) = known.get(&name).filter(|entry| entry.identity == identity) {
            return Ok(entry.sha256.clone());
        }
        let sha256 = hash::of_file(&mut file, path)?;
        let entry = Known {
            identity,
            sha256: sha256.clone(),
        };
        known.insert(name, entry);
        // What cannot be remembered is hashed again.
        if let Err(error) = remember(&cache, &known) {
            tracing::debug!(%error, "a fingerprint cannot be kept");
        }
        Ok(sha256)
    }
}

fn remember(cache: &Path, known: &BTreeMap<String, Known>) -> std::io::Result<()> {
    let directory = cache.parent().unwrap_or(cache);
    fs::create_dir_all(directory)?;
    let mut fresh = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut fresh, known)?;
    fresh.persist(cache)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_has_another_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let path = directory.path().join("program");
        fs::write(&path, "one").unwrap();
        let one = store.fingerprint(&path).unwrap();
        assert_eq!(one, hash::of_bytes(b"one"));
        assert_eq!(store.fingerprint(&path).unwrap(), one);
        fs::write(&path, "another").unwrap();
        assert_eq!(
            store.fingerprint(&path).unwrap(),
            hash::of_bytes(b"another")
        );
        let known = fs::read_to_string(store.cache("fingerprints.json")).unwrap();
        assert!(known.contains("program"));
    }
}

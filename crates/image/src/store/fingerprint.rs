//! Cached hashes of programs.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::durability::replace_file;
use super::identity::Identity;
use super::image_store::Store;
use crate::{Error, hash};

/// The name of the cache directory.
const CACHE: &str = "fingerprints";

/// The hash of a file, with the file's identity at that time.
#[derive(Serialize, Deserialize)]
struct Record {
    identity: Identity,
    sha256: String,
}

impl Store {
    /// Returns the SHA-256, in hexadecimal, of a file that rarely changes, such as the QEMU program. The hash
    /// is cached until the file's identity changes.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read. A store that cannot be written is not an error: the file
    /// is then hashed again the next time.
    pub fn fingerprint(&self, path: &Path) -> Result<String, Error> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let identity = Identity::of(&file, path)?;

        // Return the cached hash of an unchanged file.
        let cache = self.cache(CACHE);
        let name = hash::of_bytes(path.as_os_str().as_bytes());
        let cached = fs::read(cache.join(&name))
            .ok()
            .and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        if let Some(record) = cached.filter(|record| record.identity == identity) {
            return Ok(record.sha256);
        }

        let sha256 = hash::of_file(&mut file, path)?;
        if Identity::of(&file, path)? == identity {
            let record = Record { identity, sha256 };
            if let Err(error) = cache_record(&cache, &name, &record) {
                tracing::debug!(%error, "cannot cache a program's hash");
            }
            return Ok(record.sha256);
        }

        // The file changed while it was hashed: return the hash but do not cache it.
        Ok(sha256)
    }
}

fn cache_record(cache: &Path, name: &str, record: &Record) -> Result<(), Error> {
    fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
    let text = serde_json::to_vec_pretty(record)
        .map_err(|e| Error::io("write", cache.join(name))(e.into()))?;
    replace_file(cache, name, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_hashed_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "one").unwrap();
        assert_eq!(store.fingerprint(&program).unwrap(), hash::of_bytes(b"one"));
        fs::write(&program, "another").unwrap();
        assert_eq!(
            store.fingerprint(&program).unwrap(),
            hash::of_bytes(b"another")
        );
    }

    #[test]
    fn an_unchanged_file_is_not_hashed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "one").unwrap();
        let sha256 = store.fingerprint(&program).unwrap();
        let cache = directory.path().join("store/cache").join(CACHE);
        let record = fs::read_dir(cache).unwrap().next().unwrap().unwrap();
        let text = fs::read_to_string(record.path()).unwrap();
        fs::write(record.path(), text.replace(&sha256, "cached")).unwrap();
        assert_eq!(store.fingerprint(&program).unwrap(), "cached");
        fs::write(record.path(), "not a record").unwrap();
        assert_eq!(store.fingerprint(&program).unwrap(), sha256);
    }

    #[test]
    fn a_read_only_store_still_returns_the_hash() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "one").unwrap();
        // Not even root can create a store below a regular file.
        let store = Store::open(file.join("store")).unwrap();
        assert_eq!(store.fingerprint(&file).unwrap(), hash::of_bytes(b"one"));
        assert!(store.fingerprint(Path::new("/nowhere")).is_err());
    }
}

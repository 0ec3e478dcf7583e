//! A cached kernel: its files, and a record of their hashes that is written last.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::{KernelRecord, sync_directory, sync_file};
use crate::{Error, hash};

const RECORD: &str = "kernel.json";
/// The name of the kernel's file in the cache, whatever its format.
pub(super) const IMAGE: &str = "vmlinux";

/// A kernel that is ready to be put into an image.
pub(crate) struct Kernel {
    /// The kernel image: an uncompressed, stripped `vmlinux`, or Debian's `vmlinuz`.
    pub(crate) image: PathBuf,
    /// The names and files of the modules that the agent loads, in this order.
    pub(crate) modules: Vec<(String, PathBuf)>,
    /// The kernel's origin.
    pub(crate) record: KernelRecord,
}

/// The record beside the files.
#[derive(Serialize, Deserialize)]
struct Entry {
    record: KernelRecord,
    /// Names and hashes: first the kernel, then the modules in load order.
    files: Vec<(String, String)>,
}

/// Returns whether there is a cached kernel, without checking its files.
pub(super) fn exists(cached: &Path) -> bool {
    cached.join(RECORD).exists()
}

/// Returns the cached kernel if all its files match their recorded hashes.
pub(super) fn load(cached: &Path) -> Option<Kernel> {
    let text = fs::read(cached.join(RECORD)).ok()?;
    let entry: Entry = serde_json::from_slice(&text).ok()?;
    let intact = |(name, sha256): &(String, String)| {
        hash::of_path(&cached.join(name)).is_ok_and(|found| found == *sha256)
    };

    if !entry.files.iter().all(intact) {
        return None;
    }

    let mut files = entry.files.into_iter().map(|(name, _)| {
        let path = cached.join(&name);
        (name, path)
    });

    let (_, image) = files.next()?;
    Some(Kernel {
        image,
        modules: files.collect(),
        record: entry.record,
    })
}

/// Records the hashes of a finished directory: of the kernel, then of `modules`.
pub(super) fn seal(finished: &Path, record: KernelRecord, modules: &[String]) -> Result<(), Error> {
    let names = [IMAGE.to_owned()]
        .into_iter()
        .chain(modules.iter().cloned());
    let mut files = Vec::new();
    for name in names {
        let path = finished.join(&name);
        sync_file(&path)?;
        files.push((name, hash::of_path(&path)?));
    }

    // Written last: an entry without a record is not loaded.
    let path = finished.join(RECORD);
    let text = serde_json::to_vec_pretty(&Entry { record, files })
        .map_err(|e| Error::io("write", &path)(e.into()))?;
    fs::write(&path, text).map_err(Error::io("write", &path))?;

    sync_directory(finished)
}

/// Moves a finished directory into the cache.
pub(super) fn move_to_cache(finished: &Path, cached: &Path) -> Result<(), Error> {
    // A directory with this name is either damaged or outdated.
    let _ = fs::remove_dir_all(cached);
    fs::rename(finished, cached).map_err(Error::io("move the kernel to", cached))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::example_manifest;

    #[test]
    fn a_damaged_entry_is_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let (finished, cached) = (directory.path().join("f"), directory.path().join("c"));
        fs::create_dir(&finished).unwrap();
        fs::write(finished.join(IMAGE), "kernel").unwrap();
        fs::write(finished.join("a.ko"), "module").unwrap();
        seal(&finished, example_manifest().kernel, &["a.ko".to_owned()]).unwrap();
        move_to_cache(&finished, &cached).unwrap();
        let kernel = load(&cached).unwrap();
        assert_eq!(kernel.image, cached.join(IMAGE));
        assert_eq!(kernel.modules, [("a.ko".to_owned(), cached.join("a.ko"))]);
        fs::write(cached.join("a.ko"), "modulo").unwrap();
        assert!(load(&cached).is_none());
    }
}

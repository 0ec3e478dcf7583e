//! A kernel in the cache: its files, and a record of their hashes that is written last.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::{KernelRecord, sync_directory, sync_file};
use crate::{Error, hash};

const RECORD: &str = "kernel.json";
/// The kernel's file in the cache, whatever its format.
pub(super) const IMAGE: &str = "vmlinux";

/// A kernel ready to be put into an image.
pub(crate) struct Kernel {
    /// The kernel: an uncompressed, stripped `vmlinux`, or Debian's `vmlinuz`.
    pub(crate) image: PathBuf,
    /// Modules the agent loads, in this order: names and files.
    pub(crate) modules: Vec<(String, PathBuf)>,
    /// Where it comes from.
    pub(crate) record: KernelRecord,
}

/// What is recorded beside the files.
#[derive(Serialize, Deserialize)]
struct Entry {
    record: KernelRecord,
    /// Names and hashes: the kernel, then the modules in the order of loading.
    files: Vec<(String, String)>,
}

/// The kernel of an entry, if all of it is as recorded.
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

/// Records the files of a finished directory: the kernel, then `modules`.
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

    let path = finished.join(RECORD);
    let text = serde_json::to_vec_pretty(&Entry { record, files })
        .map_err(|e| Error::io("write", &path)(e.into()))?;
    fs::write(&path, text).map_err(Error::io("write", &path))?;

    sync_directory(finished)
}

/// Moves a finished directory into the cache.
pub(super) fn move_to_cache(finished: &Path, cached: &Path) -> Result<(), Error> {
    // What may lie there is an entry that is not intact, or an older one.
    let _ = fs::remove_dir_all(cached);
    fs::rename(finished, cached).map_err(Error::io("move the kernel to", cached))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::example_manifest;

    #[test]
    fn an_entry_that_is_not_intact_is_not_used() {
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

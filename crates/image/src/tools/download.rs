//! Downloaded artifacts, identified by their hash.

use std::fs;
use std::path::{Path, PathBuf};

use crate::progress::StepEnd;
use crate::store::Store;
use crate::{Error, hash};

/// An artifact whose version and hash are fixed in this version of fumehood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinned {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) sha256: &'static str,
}

/// Returns whether the artifact is in the cache, without checking it.
pub(crate) fn is_cached(store: &Store, pinned: &Pinned) -> bool {
    path(store, pinned).exists()
}

fn path(store: &Store, pinned: &Pinned) -> PathBuf {
    store.cache("downloads").join(pinned.sha256)
}

/// Returns the artifact from the cache, or fetches it. `fetch` places one file in the given directory.
pub(crate) fn obtain(
    store: &Store,
    pinned: &Pinned,
    fetch: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(PathBuf, StepEnd), Error> {
    let cached = path(store, pinned);
    if cached.exists() && hash::of_path(&cached)? == pinned.sha256 {
        return Ok((cached, StepEnd::Cached));
    }

    // Fetch into a work directory: only a checked file reaches the cache.
    let work = store.work_dir()?;
    fetch(work.path())?;
    let file = only_file(work.path())?;

    let found = hash::of_path(&file)?;
    if found != pinned.sha256 {
        let artifact = format!("{} {}", pinned.name, pinned.version);
        return Err(Error::Artifact {
            artifact,
            expected: pinned.sha256.to_owned(),
            found,
        });
    }

    fs::rename(&file, &cached).map_err(Error::io("cache", &cached))?;

    Ok((cached, StepEnd::Done))
}

/// Returns the only file of a directory.
pub(crate) fn only_file(directory: &Path) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(directory).map_err(Error::io("read", directory))?;
    let files: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.is_file())
        .collect();

    match files.as_slice() {
        [file] => Ok(file.clone()),
        _ => {
            let reason = format!("{} files instead of one", files.len());
            Err(Error::Inconsistent {
                item: "download",
                reason,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::of_bytes;

    #[test]
    fn rejects_a_file_with_another_hash() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let _lock = store.lock(|| {}).unwrap();
        let good: &'static str = of_bytes(b"good").leak();
        let pinned = Pinned {
            name: "thing",
            version: "1",
            sha256: good,
        };

        let put = |text: &'static str| {
            move |to: &Path| fs::write(to.join("f"), text).map_err(Error::io("write", to))
        };

        let error = obtain(&store, &pinned, put("bad")).unwrap_err();
        assert!(matches!(error, Error::Artifact { .. }), "{error}");
        assert_eq!(
            obtain(&store, &pinned, put("good")).unwrap().1,
            StepEnd::Done
        );

        assert_eq!(
            obtain(&store, &pinned, put("bad")).unwrap().1,
            StepEnd::Cached
        );
    }
}

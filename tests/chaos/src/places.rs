//! The directories that a command or a server writes to.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A directory that only a server writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    State,
    Log,
}

/// The directories of one server and the commands beside it.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Where they are, and what else belongs to this run.
    pub(crate) root: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) temporary: PathBuf,
    pub(crate) runtime: PathBuf,
}

impl Places {
    /// Makes the directories below `root`; the store exists already.
    ///
    /// # Errors
    /// Fails if one cannot be made.
    pub(crate) fn make(root: PathBuf, store: PathBuf) -> anyhow::Result<Self> {
        let directory = |name: &str| -> anyhow::Result<PathBuf> {
            let path = root.join(name);
            private_directory(&path)?;
            Ok(path)
        };

        Ok(Self {
            state: directory("state")?,
            log: directory("log")?,
            temporary: directory("tmp")?,
            runtime: directory("run")?,
            store,
            root,
        })
    }

    /// Returns the directory of data in which the store has its default name.
    pub(crate) fn data(&self) -> &Path {
        self.store.parent().unwrap_or(&self.store)
    }

    /// Returns the path of the server's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime.join("fumehood/server.sock")
    }

    /// Returns the directory of a place.
    pub(crate) fn of(&self, place: Place) -> &Path {
        match place {
            Place::State => &self.state,
            Place::Log => &self.log,
        }
    }
}

/// Makes a directory that only its owner may enter, and those above it.
///
/// # Errors
/// Fails if it cannot be made.
pub(crate) fn private_directory(path: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.with_context(|| format!("cannot make {}", path.display()))
}

/// Makes `to` a copy of the tree `from`: with hard links where the file system allows it, since images are large and
/// nothing changes a file of a store in place.
///
/// # Errors
/// Fails if something cannot be read or made.
pub(crate) fn link_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    private_directory(to)?;
    let entries = fs::read_dir(from).with_context(|| from.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;

        if kind.is_dir() {
            link_tree(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).with_context(|| source.display().to_string())?;
        }
    }
    Ok(())
}

/// Makes this file of a store its own copy, so that a fault may change it.
///
/// # Errors
/// Fails if it cannot be copied.
pub(crate) fn break_link(path: &Path) -> anyhow::Result<()> {
    if fs::metadata(path)?.nlink() > 1 {
        let copy = path.with_extension("chaos");
        fs::copy(path, &copy)?;
        fs::rename(&copy, path)?;
    }
    Ok(())
}

/// Returns the files below a directory, relative to it, in their order.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }

    found.sort();
    found
}

/// A small file system in memory, mounted until it is dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of this size at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// Fails if it cannot be mounted.
    pub(crate) fn mount(path: &Path, kib: u64) -> anyhow::Result<Self> {
        private_directory(path)?;
        let options = format!("size={kib}k,mode=700");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "chaos"])
            .arg(path)
            .status()
            .context("mount could not be started")?;
        ensure!(status.success(), "cannot mount {}", path.display());

        Ok(Self {
            path: path.to_path_buf(),
        })
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// Fails if the file cannot be made.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path.join("filler"))?;
        for size in [65536, 4096, 1] {
            let piece = vec![b'x'; size];
            while file.write_all(&piece).is_ok() {}
        }
        Ok(())
    }

    /// Frees what [`fill`](Self::fill) took.
    pub(crate) fn free(&self) {
        let _ = fs::remove_file(self.path.join("filler"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_linked_tree_changes_without_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(from.join("deep")).unwrap();
        fs::write(from.join("deep/file"), "one").unwrap();

        link_tree(&from, &to).unwrap();
        break_link(&to.join("deep/file")).unwrap();
        fs::write(to.join("deep/file"), "two").unwrap();
        assert_eq!(fs::read(from.join("deep/file")).unwrap(), b"one");
        assert_eq!(files_below(&to), [to.join("deep/file")]);
    }
}

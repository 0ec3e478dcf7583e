//! The files of a hot image: the store's own, and those of others that it maps.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fumehood_image::{HotImage, HotImageWriter};
use fumehood_qemu::{GuestRange, ImageError, ProcessImage, SavedFile, SavedProcess};
use serde::{Deserialize, Serialize};

use super::state::Snapshot;
use super::template_memory::TemplateMemory;

/// The description of an image in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    process: ProcessImage,
    guest_memory: GuestRange,
    /// The files that it maps besides its changed pages, in their order.
    files: Vec<MappedFile>,
}

/// A file that an image maps. It must not have changed.
#[derive(Debug, Serialize, Deserialize)]
enum MappedFile {
    /// The memory of the template that it was created from. A template that was built again has other contents.
    TemplateMemory(FileIdentity),
    /// A program or library.
    Library(PathBuf, FileIdentity),
}

/// The metadata that changes if a file is changed or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Of the contents, in nanoseconds.
    modified: i128,
    /// Of the inode, in nanoseconds.
    changed: i128,
}

impl FileIdentity {
    /// Returns the identity of the file of a template's memory, whose contents the store verifies. A link to it, as a backup
    /// makes one, is no change.
    ///
    /// # Errors
    /// Returns the operating system's error.
    pub(super) fn of_template(file: &File) -> io::Result<Self> {
        Ok(Self {
            changed: 0,
            ..Self::of(&file.metadata()?)
        })
    }

    /// Returns the identity of an open file.
    ///
    /// # Errors
    /// Returns the operating system's error.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&file.metadata()?))
    }

    fn of_path(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&path.metadata()?))
    }

    fn of(metadata: &Metadata) -> Self {
        let time = |seconds: i64, nanoseconds: i64| {
            i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
        };
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Why an image is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// It is of no use any more.
    #[error("{0}")]
    Unusable(String),
    /// It could not be opened, which says nothing about it: this process may be short of descriptors or memory.
    #[error("{0}")]
    NotOpened(String),
}

impl LoadError {
    fn not_opened(error: impl Display) -> Self {
        Self::NotOpened(error.to_string())
    }

    /// Returns the error of a path that an image maps.
    fn of_path(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| {
            let message = format!("{}: {error}", path.display());
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Unusable(message),
                _ => Self::NotOpened(message),
            }
        }
    }
}

/// The programs and libraries that images map, which most of them have in common: each is opened once.
#[derive(Debug, Default)]
pub(crate) struct Libraries(Mutex<HashMap<PathBuf, (FileIdentity, SavedFile)>>);

impl Libraries {
    /// Opens a library that has not changed since an image was created.
    pub(super) fn open(
        &self,
        path: PathBuf,
        recorded: FileIdentity,
    ) -> Result<SavedFile, LoadError> {
        let failed = LoadError::of_path(&path);
        if FileIdentity::of_path(&path).map_err(&failed)? != recorded {
            return Err(LoadError::Unusable(format!(
                "{} was changed",
                path.display()
            )));
        }

        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match opened.get(&path) {
            Some((identity, file)) if *identity == recorded => Ok(file.clone()),
            _ => {
                let file = SavedFile::open(&path).map_err(&failed)?;
                opened.insert(path.clone(), (recorded, file.clone()));
                Ok(file)
            }
        }
    }
}

/// Opens everything that an image maps. `open_template` opens the memory of its template, if that exists.
///
/// # Errors
/// [`LoadError`].
pub(super) fn load(
    stored: HotImage,
    libraries: &Libraries,
    open_template: impl Fn() -> Result<Option<TemplateMemory>, String>,
) -> Result<(SavedProcess, Option<TemplateMemory>), LoadError> {
    let unusable = |e: &dyn Display| LoadError::Unusable(e.to_string());
    let not_opened = LoadError::not_opened;
    let Description {
        process,
        guest_memory,
        files: mapped,
    } = serde_json::from_slice(&stored.description).map_err(|e| unusable(&e))?;

    let mut files = vec![SavedFile::new(stored.pages, None).map_err(not_opened)?];
    let mut template = None;
    for file in mapped {
        files.push(match file {
            MappedFile::TemplateMemory(recorded) => {
                let opened = open_template().map_err(LoadError::NotOpened)?;
                let memory = opened.ok_or_else(|| unusable(&"its template is missing"))?;
                let file = memory.needed().file;
                if FileIdentity::of_template(file).map_err(not_opened)? != recorded {
                    return Err(unusable(&"its template was built again"));
                }
                let file = file.try_clone().map_err(not_opened)?;
                template = Some(memory);
                SavedFile::new(file, None).map_err(not_opened)?
            }
            MappedFile::Library(path, recorded) => libraries.open(path, recorded)?,
        });
    }
    let process = SavedProcess::new(process, guest_memory, files);
    let process = process.map_err(|error| match error {
        ImageError::Io(error) => not_opened(error),
        other => unusable(&other),
    })?;
    Ok((process, template))
}

/// Writes an image to the store. `template` is the file of the template's memory on disk.
///
/// # Errors
/// Returns why it was not written.
pub(super) fn save(
    draft: HotImageWriter,
    snapshot: &Snapshot,
    template: FileIdentity,
) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let process = snapshot.process().ok_or("it has no process")?;
    let [pages, others @ ..] = process.files() else {
        return Err("it has no pages".into());
    };
    let mapped = others.iter().map(|file| match file.path.as_deref() {
        Some(path) => {
            let identity = FileIdentity::of_path(path)?;
            Ok(MappedFile::Library(path.to_path_buf(), identity))
        }
        None => Ok(MappedFile::TemplateMemory(template)),
    });
    let description = Description {
        process: process.image().clone(),
        guest_memory: process.guest_memory(),
        files: mapped.collect::<io::Result<_>>().map_err(|e| text(&e))?,
    };
    let description = serde_json::to_vec(&description).map_err(|e| text(&e))?;

    let pages = pages.try_clone().map_err(|e| text(&e))?;
    draft
        .finish(&pages, &description)
        .map(drop)
        .map_err(|e| text(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_or_changed_has_another_identity() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ram");
        let both = || {
            let template = FileIdentity::of_template(&File::open(&path).unwrap()).unwrap();
            [FileIdentity::of_path(&path).unwrap(), template]
        };
        std::fs::write(&path, "one").unwrap();
        let first = both();

        let other = directory.path().join("other");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let replaced = both();
        assert!(replaced[0] != first[0] && replaced[1] != first[1]);

        std::fs::write(&path, "three").unwrap();
        let changed = both();
        assert!(changed[0] != replaced[0] && changed[1] != replaced[1]);

        std::fs::hard_link(&path, directory.path().join("backup")).unwrap();
        assert_eq!(both()[1], changed[1]);
    }
}

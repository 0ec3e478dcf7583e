//! The files of a hot image: the store's own, and those of others that it maps.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fumehood_image::{HotImage, HotImageWriter};
use fumehood_qemu::{GuestRange, ProcessImage, SavedFile, SavedProcess};
use serde::{Deserialize, Serialize};

use super::state::Snapshot;

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

/// What is different after a file was changed or replaced.
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

/// Opens everything that an image maps. `open_template` opens the memory of its template.
///
/// # Errors
/// Returns why the image cannot be used.
pub(super) fn load(
    stored: HotImage,
    open_template: impl Fn() -> Result<File, String>,
) -> Result<SavedProcess, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let Description {
        process,
        guest_memory,
        files: mapped,
    } = serde_json::from_slice(&stored.description).map_err(|e| text(&e))?;

    let mut files = vec![SavedFile::new(stored.pages, None).map_err(|e| text(&e))?];
    for file in mapped {
        files.push(match file {
            MappedFile::TemplateMemory(recorded) => {
                let file = open_template()?;
                if FileIdentity::of_template(&file).map_err(|e| text(&e))? != recorded {
                    return Err("its template was built again".into());
                }
                SavedFile::new(file, None).map_err(|e| text(&e))?
            }
            MappedFile::Library(path, recorded) => {
                let shown = path.display();
                let current = FileIdentity::of_path(&path).map_err(|e| format!("{shown}: {e}"))?;
                if current != recorded {
                    return Err(format!("{shown} was changed"));
                }
                SavedFile::open(&path).map_err(|e| text(&e))?
            }
        });
    }
    SavedProcess::new(process, guest_memory, files).map_err(|e| text(&e))
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

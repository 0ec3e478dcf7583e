//! An open image.

use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};

use super::identity::{self, IDENTITY_FILE, Identities, Identity};
use super::manifest::{Manifest, PARTS, PartRecord};
use super::name::ImageName;
use crate::error::is_shortage;
use crate::{Error, hash};

/// A built image whose parts are open and match the manifest.
#[derive(Debug)]
pub struct Image {
    name: ImageName,
    directory: PathBuf,
    manifest: Manifest,
    parts: [ImageFile; PARTS.len()],
}

/// One file of an image, opened once for reading. It stays readable after the image is replaced.
#[derive(Debug)]
pub struct ImageFile {
    path: PathBuf,
    file: File,
    record: PartRecord,
}

impl ImageFile {
    /// Returns the file's path. Read from [`ImageFile::file`] instead: only that descriptor was checked.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the checked descriptor, open for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the SHA-256 in hexadecimal, from the manifest.
    pub fn sha256(&self) -> &str {
        &self.record.sha256
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        self.record.bytes
    }
}

impl Image {
    /// Returns the name under which the image was opened.
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// Returns the image's id. Two images with the same id contain the same bytes.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Returns the image's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the image's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the kernel, an uncompressed `vmlinux`.
    pub fn kernel(&self) -> &ImageFile {
        &self.parts[0]
    }

    /// Returns the initial file system with the agent.
    pub fn initrd(&self) -> &ImageFile {
        &self.parts[1]
    }

    /// Returns the read-only root file system.
    pub fn rootfs(&self) -> &ImageFile {
        &self.parts[2]
    }

    /// Opens the image in `directory`. A part is hashed only if its identity changed since its last hash.
    pub(crate) fn open(name: &ImageName, directory: &Path) -> Result<Self, Error> {
        let manifest = Manifest::load(name.as_str(), directory)?;
        let recorded = identity::load_identities(&directory.join(IDENTITY_FILE));

        let mut seen = Identities::new();
        let mut open = |part: &str| -> Result<ImageFile, Error> {
            let (part, identity) = open_part(name, directory, &manifest, part, &recorded)?;
            seen.insert(part.record.name.clone(), identity);
            Ok(part)
        };

        let parts = [open(PARTS[0].0)?, open(PARTS[1].0)?, open(PARTS[2].0)?];
        if seen != recorded {
            // A user without write access hashes again the next time.
            if let Err(error) = identity::save_identities(directory, &seen) {
                tracing::debug!(%error, "cannot record the parts' identities");
            }
        }

        Ok(Self {
            name: name.clone(),
            directory: directory.to_path_buf(),
            manifest,
            parts,
        })
    }
}

/// How often a file is hashed that changes meanwhile. A backup that links it changes only its times.
const ATTEMPTS: usize = 3;

/// Checks a file, and returns the identity that it had before and after that. Returns `None` if it changed each time.
fn check_until_unchanged(
    file: &mut File,
    path: &Path,
    mut check: impl FnMut(&mut File) -> Result<(), Error>,
) -> Result<Option<Identity>, Error> {
    for _ in 0..ATTEMPTS {
        let before = Identity::of(file, path)?;
        check(file)?;
        file.rewind().map_err(Error::io("rewind", path))?;
        if Identity::of(file, path)? == before {
            return Ok(Some(before));
        }
    }

    Ok(None)
}

/// Opens and checks one part. The returned identity is that of the returned descriptor.
fn open_part(
    name: &ImageName,
    directory: &Path,
    manifest: &Manifest,
    part: &str,
    recorded: &Identities,
) -> Result<(ImageFile, Identity), Error> {
    let damaged = |path: &Path, reason: String| Error::Damaged {
        name: name.to_string(),
        part: part.to_owned(),
        path: path.to_path_buf(),
        reason,
    };

    let record = manifest
        .part(part)
        .ok_or_else(|| damaged(directory, "the manifest does not list it".to_owned()))?;

    let path = directory.join(&record.file);
    let mut file = File::open(&path).map_err(|e| {
        if is_shortage(&e) {
            Error::io("open", &path)(e)
        } else {
            damaged(&path, e.to_string())
        }
    })?;
    let mut identity = Identity::of(&file, &path)?;

    // Hash a part that is new or changed.
    if recorded.get(part) != Some(&identity) {
        let checked = check_until_unchanged(&mut file, &path, |file| {
            let found = hash::of_file(file, &path)?;
            if found == record.sha256 {
                return Ok(());
            }
            let reason = format!("sha256 {found} instead of {}", record.sha256);
            Err(damaged(&path, reason))
        })?;
        identity =
            checked.ok_or_else(|| damaged(&path, "it changed while it was hashed".to_owned()))?;
    }

    Ok((
        ImageFile {
            path,
            file,
            record: record.clone(),
        },
        identity,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;

    use super::*;

    /// Checks a file that is linked by another program during the first `times` checks.
    fn check_while_linked(times: usize) -> Option<Identity> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        fs::write(&path, "content").unwrap();

        let mut file = File::open(&path).unwrap();
        let mut checks = 0;
        let identity = check_until_unchanged(&mut file, &path, |file| {
            checks += 1;
            if checks <= times {
                let before = Identity::of(file, &path)?;
                let mut links = 0;
                // The clock of files is coarse.
                while Identity::of(file, &path)? == before {
                    links += 1;
                    fs::hard_link(&path, dir.path().join(format!("{checks}-{links}"))).unwrap();
                }
            }
            Ok(())
        })
        .unwrap();

        identity.inspect(|one| assert!(*one == Identity::of(&file, &path).unwrap()))
    }

    #[test]
    fn a_part_that_is_linked_while_it_is_hashed_is_hashed_again() {
        assert!(check_while_linked(0).is_some());
        assert!(check_while_linked(ATTEMPTS - 1).is_some());
        assert!(check_while_linked(ATTEMPTS).is_none());
    }
}

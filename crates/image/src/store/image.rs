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
    let identity = Identity::of(&file, &path)?;

    // Hash a part that is new or changed.
    if recorded.get(part) != Some(&identity) {
        let found = hash::of_file(&mut file, &path)?;
        if found != record.sha256 {
            return Err(damaged(
                &path,
                format!("sha256 {found} instead of {}", record.sha256),
            ));
        }

        if Identity::of(&file, &path)? != identity {
            return Err(damaged(&path, "it changed while it was hashed".to_owned()));
        }

        file.rewind().map_err(Error::io("rewind", &path))?;
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

//! An image, opened.

use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};

use super::identity::{self, IDENTITY_FILE, Identities, Identity};
use super::manifest::{Manifest, PARTS, PartRecord};
use super::name::ImageName;
use crate::{Error, hash};

/// A built image whose parts are open and known to be what the manifest says.
#[derive(Debug)]
pub struct Image {
    name: ImageName,
    directory: PathBuf,
    manifest: Manifest,
    parts: [ImageFile; PARTS.len()],
}

/// One file of an image, opened once for reading. It stays readable when the image is replaced.
#[derive(Debug)]
pub struct ImageFile {
    path: PathBuf,
    file: File,
    record: PartRecord,
}

impl ImageFile {
    /// Where the file lies; the descriptor of [`ImageFile::file`] is the one that was checked.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checked descriptor, open for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// SHA-256 in hexadecimal, from the manifest.
    pub fn sha256(&self) -> &str {
        &self.record.sha256
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.record.bytes
    }
}

impl Image {
    /// The name under which it was opened.
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// Its identity: two images with the same id hold the same bytes.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The kernel, an uncompressed `vmlinux`.
    pub fn kernel(&self) -> &ImageFile {
        &self.parts[0]
    }

    /// The start file system with the agent.
    pub fn initrd(&self) -> &ImageFile {
        &self.parts[1]
    }

    /// The read-only root file system.
    pub fn rootfs(&self) -> &ImageFile {
        &self.parts[2]
    }

    /// Opens the image in `directory`. What looks as it did after the last hash is not hashed again.
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
            // Whoever may only read the store hashes again the next time.
            if let Err(error) = identity::save_identities(directory, &seen) {
                tracing::debug!(%error, "cannot remember the parts' identities");
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

/// Opens one part and makes sure of it; the identity is that of the very descriptor.
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
        .ok_or_else(|| damaged(directory, "the manifest does not name it".to_owned()))?;

    let path = directory.join(&record.file);
    let mut file = File::open(&path).map_err(|e| damaged(&path, e.to_string()))?;
    let identity = Identity::of(&file, &path)?;
    if recorded.get(part) != Some(&identity) {
        let found = hash::of_file(&mut file, &path)?;
        if found != record.sha256 {
            return Err(damaged(
                &path,
                format!("sha256 {found} instead of {}", record.sha256),
            ));
        }

        if Identity::of(&file, &path)? != identity {
            return Err(damaged(&path, "it changed while it was read".to_owned()));
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

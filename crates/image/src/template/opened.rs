//! A template that was opened and checked.

use std::fmt;
use std::fs::File;

use super::format::{RAM, STATE};
use super::manifest::TemplateManifest;
use super::memory;
use crate::artifact_cache::CacheEntry;
use crate::sparse::copy_sparse;
use crate::store::{Identities, Identity, save_identities};
use crate::{Error, hash};

/// A saved guest that was opened and matches its manifest. It stays usable after it is removed from the
/// store.
pub struct Template {
    manifest: TemplateManifest,
    ram: File,
    state: Vec<u8>,
}

impl Template {
    /// Returns the template's manifest.
    pub fn manifest(&self) -> &TemplateManifest {
        &self.manifest
    }

    /// Returns the guest's memory: a sparse file, open only for reading.
    pub fn ram(&self) -> &File {
        &self.ram
    }

    /// Returns the devices' state.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// Copies the guest's memory to `to`, which must be empty, and sets the size of `to`. See [`copy_sparse`]
    /// for the time this takes.
    ///
    /// # Errors
    /// [`Error::Io`] if `to` cannot be written or the memory cannot be read.
    pub fn copy_ram_to(&self, to: &File) -> Result<(), Error> {
        copy_sparse(&self.ram, to).map(drop)
    }

    /// Loads and checks an entry. A file is hashed only if its identity changed since its last hash.
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        let manifest = TemplateManifest::load(entry)?;
        let recorded = entry.identities();
        let (ram, state) = (entry.open_file(RAM)?, entry.open_file(STATE)?);
        let contents = entry.read_file(STATE)?;

        // Hash the files that are new or changed.
        let mut seen = Identities::new();
        for (name, file) in [(RAM, &ram), (STATE, &state)] {
            let identity = Identity::of(file, entry.path())?;
            if recorded.get(name) != Some(&identity) {
                check(entry, name, file, &manifest, &contents)?;
                // A changed time is no damage: the hash may belong to the old contents or to the new ones.
                if Identity::of(file, entry.path())? != identity {
                    let changed = std::io::Error::other("it changed while it was hashed");
                    return Err(Error::io("check", entry.path().join(name))(changed));
                }
            }

            seen.insert(name.to_owned(), identity);
        }

        if seen != recorded {
            // A user without write access hashes again the next time.
            if let Err(error) = save_identities(entry.path(), &seen) {
                tracing::debug!(%error, "cannot record a template's identities");
            }
        }

        Ok(Self {
            manifest,
            ram,
            state: contents,
        })
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("manifest", &self.manifest)
            .finish_non_exhaustive()
    }
}

/// Compares the size and the hash of a changed file with the manifest.
fn check(
    entry: &CacheEntry,
    name: &str,
    file: &File,
    manifest: &TemplateManifest,
    state: &[u8],
) -> Result<(), Error> {
    // The size first: a hash of the memory takes much longer.
    let path = entry.path().join(name);
    let size = file.metadata().map_err(Error::io("inspect", &path))?.len();
    let expected_size = match name {
        RAM => manifest.ram_bytes,
        _ => manifest.state_bytes,
    };
    if size != expected_size {
        return Err(entry.damaged(name, format!("{size} bytes instead of {expected_size}")));
    }

    let (found, expected) = match name {
        RAM => {
            let contents = memory::hash(file, size).map_err(Error::io("read", &path))?;
            (contents.sha256, &manifest.ram_sha256)
        }
        _ => (hash::of_bytes(state), &manifest.state_sha256),
    };
    if found != *expected {
        return Err(entry.damaged(name, format!("sha256 {found} instead of {expected}")));
    }

    Ok(())
}

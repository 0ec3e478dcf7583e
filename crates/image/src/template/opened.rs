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

/// A saved guest, opened and known to be what its manifest says. It stays usable when it is removed from
/// the store.
pub struct Template {
    manifest: TemplateManifest,
    ram: File,
    state: Vec<u8>,
}

impl Template {
    /// What it is and what it was made from.
    pub fn manifest(&self) -> &TemplateManifest {
        &self.manifest
    }

    /// The guest's memory: a sparse file, open for reading only.
    pub fn ram(&self) -> &File {
        &self.ram
    }

    /// The devices' state.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// Gives `to`, a file without contents, the size of the guest's memory and all that it holds. How long
    /// that takes is said at [`copy_sparse`].
    ///
    /// # Errors
    /// [`Error::Io`] when `to` cannot be written, or the memory not be read.
    pub fn copy_ram_to(&self, to: &File) -> Result<(), Error> {
        copy_sparse(&self.ram, to).map(drop)
    }

    /// Opens what lies in this place. What looks as it did after the last hash is not hashed again.
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        let manifest = TemplateManifest::load(entry)?;
        let recorded = entry.identities();
        let mut seen = Identities::new();
        let (ram, state) = (entry.part(RAM)?, entry.part(STATE)?);
        let contents = entry.read(STATE)?;

        for (name, file) in [(RAM, &ram), (STATE, &state)] {
            let identity = Identity::of(file, entry.path())?;
            if recorded.get(name) != Some(&identity) {
                check(entry, name, file, &manifest, &contents)?;
                if Identity::of(file, entry.path())? != identity {
                    let reason = "it changed while it was read".to_owned();
                    return Err(entry.damaged(name, reason));
                }
            }

            seen.insert(name.to_owned(), identity);
        }

        if seen != recorded {
            // Whoever may only read the store hashes again the next time.
            if let Err(error) = save_identities(entry.path(), &seen) {
                tracing::debug!(%error, "cannot remember a template's identities");
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

/// Compares size and hash of a part that looks otherwise than it did.
fn check(
    entry: &CacheEntry,
    name: &str,
    file: &File,
    manifest: &TemplateManifest,
    state: &[u8],
) -> Result<(), Error> {
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

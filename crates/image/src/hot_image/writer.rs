//! Writing a new hot image.

use std::fs::File;
use std::io::Write;

use super::format::{BOOT, DESCRIPTION, LABEL, PAGES, boot_id};
use super::stored::HotImage;
use crate::Error;
use crate::artifact_cache::StagingDir;
use crate::sparse::{MEMORY, copy_sparse, data_bytes};
use crate::store::{Identities, save_identities};
use crate::template::TemplateKey;

/// Bytes of an image in addition to pages.
const MARGIN: u64 = 2 << 20;

/// A hot image that is being created. It is not visible before [`finish`](Self::finish) returns. Dropping the writer removes
/// its files.
#[derive(Debug)]
pub struct HotImageWriter {
    key: TemplateKey,
    label: String,
    staging: StagingDir,
}

impl HotImageWriter {
    pub(super) fn new(key: &TemplateKey, label: &str, staging: StagingDir) -> Self {
        Self {
            key: key.clone(),
            label: label.to_owned(),
            staging,
        }
    }

    /// Writes the image and installs it atomically, in place of an older one.
    ///
    /// # Errors
    /// [`Error::InsufficientSpace`], [`Error::DiskFull`] or [`Error::Io`]. No files are left behind.
    pub fn finish(mut self, pages: &File, description: &[u8]) -> Result<HotImage, Error> {
        let bytes = data_bytes(pages).map_err(Error::io("inspect", MEMORY))?;
        let required = bytes + description.len() as u64 + MARGIN;
        let cache = self.staging.cache().clone();
        cache.require_space(required)?;

        self.write(pages, description)
            .and_then(|()| self.staging.install(self.key.as_str(), HotImage::load))
            .map_err(|error| error.or_disk_full(cache.root(), required))
    }

    fn write(&self, pages: &File, description: &[u8]) -> Result<(), Error> {
        let mut identities = Identities::new();
        let copy = |file: &mut File| copy_sparse(pages, file).map(drop);
        self.staging
            .write_unflushed_file(PAGES, &mut identities, copy)?;

        let boot = boot_id().unwrap_or_default();
        let texts = [
            (DESCRIPTION, description),
            (BOOT, boot.as_bytes()),
            (LABEL, self.label.as_bytes()),
        ];

        let mut others = Identities::new();
        for (name, contents) in texts {
            let write = |file: &mut File| {
                let written = file.write_all(contents);
                written.map_err(Error::io("write", self.staging.path().join(name)))
            };
            self.staging
                .write_unflushed_file(name, &mut others, write)?;
        }
        save_identities(self.staging.path(), &identities)
    }
}

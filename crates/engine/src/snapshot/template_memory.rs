use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use fumehood_image::{NeededFile, Template, data_ranges};
use fumehood_qemu::SavedFile;

/// The memory of a template on disk. States of guests that were restored from it are saved as the pages that differ from it.
/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct TemplateMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    sha256: String,
    /// A sealed file in memory with the same contents, which a QEMU maps.
    copy: Option<File>,
}

impl TemplateMemory {
    /// Takes the memory of a template that was opened.
    ///
    /// # Errors
    /// Returns the operating system's error.
    pub(super) fn of(template: &Template) -> io::Result<Self> {
        let file = template.ram().try_clone()?;
        Ok(Self::new(file, template.manifest().ram_sha256.clone()))
    }

    pub(crate) fn new(file: File, sha256: String) -> Self {
        Self(Arc::new(Inner {
            file,
            sha256,
            copy: None,
        }))
    }

    /// Adds a file in memory that has, or will have, the same contents.
    pub(super) fn with_copy(&self, ram: &File) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            file: self.0.file.try_clone()?,
            sha256: self.0.sha256.clone(),
            copy: Some(ram.try_clone()?),
        })))
    }

    /// Returns whether a file has its contents.
    pub(super) fn is_copy(&self, file: &SavedFile) -> bool {
        let Inner {
            file: own, copy, ..
        } = &*self.0;
        file.is_same(own) || copy.as_ref().is_some_and(|copy| file.is_same(copy))
    }

    pub(super) fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        data_ranges(&self.0.file)
    }

    /// Returns the file that a saved state needs.
    pub(super) fn needed(&self) -> NeededFile<'_> {
        NeededFile {
            file: &self.0.file,
            sha256: &self.0.sha256,
        }
    }
}

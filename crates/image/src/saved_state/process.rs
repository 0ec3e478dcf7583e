//! QEMU itself, saved beside the state of its guest. It is of use until the host is started again, so nothing of it is
//! flushed to the disk, and a state without it is complete.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::Range;

use super::format::{MAX_PROCESS_BYTES, PROCESS, PROCESS_PAGES};
use super::manifest::{ProcessRecord, read_bounded};
use crate::artifact_cache::{CacheEntry, StagingDir};
use crate::hot_image::boot_id;
use crate::sparse::data_bytes;
use crate::store::Identities;
use crate::{Error, hash};

/// The read size for a checksum, in bytes.
const READ_BYTES: usize = 1 << 18;

/// Saves QEMU; returns the engine's description of it, or why it cannot be saved.
pub type ProcessSaver<'a> = Box<dyn FnOnce(ProcessTarget<'_>) -> Result<Vec<u8>, String> + 'a>;

/// The files that a QEMU is saved to.
#[derive(Debug)]
pub struct ProcessTarget<'a> {
    /// An empty file for the pages that QEMU has changed.
    pub pages: &'a File,
    /// The file with the guest's pages at their own offsets, open for reading.
    pub memory: &'a File,
    /// The ranges of the guest's memory that are in `memory`; all others are those of the template.
    pub stored: Vec<Range<u64>>,
}

/// A saved QEMU that was opened. Its pages are checked by [`verify`](Self::verify).
#[derive(Debug)]
pub struct StoredProcess {
    /// The pages that QEMU has changed, open for reading.
    pub pages: File,
    /// The engine's description.
    pub description: Vec<u8>,
    checksum: u32,
    entry: CacheEntry,
}

/// Saves QEMU in a staging directory, if it takes at most so many bytes. A failure is logged.
pub(super) fn save(
    staging: &StagingDir,
    saver: ProcessSaver<'_>,
    memory: &File,
    stored: Vec<Range<u64>>,
    max_bytes: u64,
) -> Option<ProcessRecord> {
    let saved = try_save(staging, saver, memory, stored, max_bytes);
    saved
        .inspect_err(|reason| {
            tracing::info!(reason, "a state is saved without its QEMU");
            for name in [PROCESS_PAGES, PROCESS] {
                let _ = std::fs::remove_file(staging.path().join(name));
            }
        })
        .ok()
}

fn try_save(
    staging: &StagingDir,
    saver: ProcessSaver<'_>,
    memory: &File,
    stored: Vec<Range<u64>>,
    max_bytes: u64,
) -> Result<ProcessRecord, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let boot = boot_id().ok_or("the host does not report its boot")?;
    let path = staging.path().join(PROCESS_PAGES);
    let mut ignored = Identities::new();
    staging
        .write_unflushed_file(PROCESS_PAGES, &mut ignored, |_| Ok(()))
        .map_err(|e| text(&e))?;
    let opened = File::options().read(true).write(true).open(&path);
    let mut pages = opened.map_err(|e| text(&e))?;

    let description = saver(ProcessTarget {
        pages: &pages,
        memory,
        stored,
    })?;
    let bytes = data_bytes(&pages).map_err(|e| text(&e))?;
    if bytes > max_bytes {
        return Err(format!(
            "its pages take {bytes} bytes, and {max_bytes} are allowed"
        ));
    }

    pages.rewind().map_err(|e| text(&e))?;
    let pages_crc32c = checksum(&mut pages).map_err(|e| text(&e))?;
    let pages_bytes = pages.metadata().map_err(|e| text(&e))?.len();
    staging
        .write_unflushed_file(PROCESS, &mut ignored, |file| {
            let written = file.write_all(&description);
            written.map_err(Error::io("write", staging.path().join(PROCESS)))
        })
        .map_err(|e| text(&e))?;
    Ok(ProcessRecord {
        boot,
        description_sha256: hash::of_bytes(&description),
        pages_bytes,
        pages_crc32c,
    })
}

impl StoredProcess {
    /// Opens the QEMU of a state. Returns `None` if it is of an earlier boot, or cannot be used: the state does not need it.
    pub(super) fn load(entry: &CacheEntry, record: &ProcessRecord) -> Option<Self> {
        if Some(&record.boot) != boot_id().as_ref() {
            return None;
        }

        let open = || {
            let description = read_bounded(entry.open_file(PROCESS)?, MAX_PROCESS_BYTES)
                .map_err(|error| entry.damaged(PROCESS, error.to_string()))?;
            if hash::of_bytes(&description) != record.description_sha256 {
                return Err(entry.damaged(PROCESS, "it has another checksum".to_owned()));
            }
            let pages = entry.open_file(PROCESS_PAGES)?;
            let metadata = pages.metadata();
            let bytes = metadata.map_err(Error::io("inspect", entry.path()))?.len();
            if bytes != record.pages_bytes {
                return Err(entry.damaged(PROCESS_PAGES, format!("it has {bytes} bytes")));
            }
            let entry = entry.reopen()?;
            Ok(Self {
                pages,
                description,
                checksum: record.pages_crc32c,
                entry,
            })
        };
        open()
            .inspect_err(|error| tracing::warn!(%error, "a state is resumed without its QEMU"))
            .ok()
    }

    /// Compares all pages with their checksum.
    ///
    /// # Errors
    /// [`Error::DamagedState`], and [`Error::Io`].
    pub fn verify(&self) -> Result<(), Error> {
        let mut pages = self.entry.open_file(PROCESS_PAGES)?;
        let found = checksum(&mut pages);
        let path = self.entry.path().join(PROCESS_PAGES);
        if found.map_err(Error::io("read", path))? == self.checksum {
            Ok(())
        } else {
            let reason = "it has another checksum".to_owned();
            Err(self.entry.damaged(PROCESS_PAGES, reason))
        }
    }
}

fn checksum(file: &mut File) -> std::io::Result<u32> {
    let (mut checksum, mut buffer) = (0, vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(checksum),
            count => checksum = crc32c::crc32c_append(checksum, &buffer[..count]),
        }
    }
}

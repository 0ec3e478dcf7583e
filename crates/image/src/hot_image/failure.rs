//! The record of the last failure to create a hot image, for those who diagnose a host and for later processes.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use super::format::boot_id;
use super::hot_images::HotImages;
use crate::Error;

/// The last failure to create an image since the host was started. A later success removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildFailure {
    /// Why it failed.
    pub reason: String,
    /// How long ago.
    pub age: Duration,
}

/// Maximum size of a recorded reason, in bytes.
const MAX_REASON_BYTES: usize = 4096;

impl HotImages {
    fn failure_path(&self) -> PathBuf {
        self.cache.path("last-failure")
    }

    /// Records that an image could not be created.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written.
    pub fn record_failure(&self, reason: &str) -> Result<(), Error> {
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
        let text = format!("{}\n{reason}", boot_id().unwrap_or_default());
        let path = self.failure_path();
        fs::write(&path, text).map_err(Error::io("write", path))
    }

    /// Removes the record: an image was created.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be changed.
    pub fn clear_failure(&self) -> Result<(), Error> {
        let path = self.failure_path();
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
            _ => Ok(()),
        }
    }

    /// Returns the last failure since the host was started, if no image was created later.
    pub fn last_failure(&self) -> Option<BuildFailure> {
        let path = self.failure_path();
        let text = fs::read_to_string(&path).ok()?;
        let (boot, reason) = text.split_once('\n')?;
        if Some(boot) != boot_id().as_deref() {
            return None;
        }

        let recorded = fs::metadata(&path).and_then(|metadata| metadata.modified());
        Some(BuildFailure {
            reason: reason.to_owned(),
            age: recorded.ok()?.elapsed().unwrap_or_default(),
        })
    }
}

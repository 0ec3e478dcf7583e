//! The record that a state was consumed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::{CLAIM, CONSUMED, UNCLAIMED};
use crate::Error;
use crate::artifact_cache::CacheEntry;

/// Returns whether a state was consumed, and its files are only not removed yet.
pub(super) fn is_consumed(entry: &CacheEntry) -> Result<bool, Error> {
    match entry.read_file(CLAIM)?.as_slice() {
        text if text == UNCLAIMED => Ok(false),
        text if text == CONSUMED => Ok(true),
        _ => Err(entry.damaged(CLAIM, "it has other contents".to_owned())),
    }
}

/// Records that a state is consumed. When this returns, the record is on the disk.
pub(super) fn mark_consumed(entry: &CacheEntry) -> Result<(), Error> {
    let path = entry.path().join(CLAIM);
    let file = File::options().write(true).open(&path);
    let file = file.map_err(Error::io("open", &path))?;
    file.write_all_at(CONSUMED, 0)
        .and_then(|()| file.sync_data())
        .map_err(Error::io("write", &path))
}

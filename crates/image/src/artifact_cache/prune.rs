//! Pruning: the least recently used entries go first.

use std::cmp::Reverse;

use super::cache::ArtifactCache;
use super::entry::CacheEntry;
use super::lock::Lock;
use super::report::PruneReport;
use crate::Error;

impl ArtifactCache {
    /// Removes what dead makers left, what `is_wanted` does not hold for, and then the least recently used things
    /// until at most `max_bytes` are on disk.
    pub(crate) fn prune(
        &self,
        max_bytes: u64,
        is_wanted: impl Fn(&CacheEntry) -> bool,
    ) -> Result<PruneReport, Error> {
        if !self.root().exists() {
            return Ok(PruneReport::default());
        }

        // Looked at before the lock is taken: to look may mean to hash.
        let to_remove = select_surplus(self.entries()?, max_bytes, is_wanted);
        let lock = self.lock()?;
        let mut report = self.sweep(&lock)?;

        for entry in &to_remove {
            self.remove_if_current(entry, &lock, &mut report);
        }

        Ok(report)
    }

    /// Removes this very thing; not one that has taken its name.
    fn remove_if_current(&self, entry: &CacheEntry, lock: &Lock, report: &mut PruneReport) {
        if entry.is_current() {
            let removed = self.remove(entry.name(), lock);
            let bytes = removed.as_ref().map_or(0, |bytes| *bytes);
            report.add(bytes, removed.map(drop));
        }
    }
}

/// Those to remove.
fn select_surplus(
    entries: Vec<CacheEntry>,
    max_bytes: u64,
    is_wanted: impl Fn(&CacheEntry) -> bool,
) -> Vec<CacheEntry> {
    let all = entries.into_iter().map(|entry| (entry.last_used(), entry));
    let (mut kept, unwanted): (Vec<_>, Vec<_>) = all.partition(|(last_used, entry)| {
        let is_wanted = is_wanted(entry);
        // To look at it may have changed the directory.
        if entry.last_used() != *last_used {
            entry.mark_used(*last_used);
        }
        is_wanted
    });
    kept.sort_by_key(|(last_used, _)| Reverse(*last_used));
    let mut bytes: u64 = 0;
    let fitting = kept
        .iter()
        .take_while(|(_, entry)| {
            bytes = bytes.saturating_add(entry.bytes());
            bytes <= max_bytes
        })
        .count();

    let select_surplus = kept.split_off(fitting);
    let both = unwanted.into_iter().chain(select_surplus);

    both.map(|(_, entry)| entry).collect()
}

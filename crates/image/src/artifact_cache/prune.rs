//! Pruning: removes unusable entries, then the least recently used ones.

use std::cmp::Reverse;

use super::cache::ArtifactCache;
use super::entry::CacheEntry;
use super::lock::Lock;
use super::report::PruneReport;
use crate::Error;

impl ArtifactCache {
    /// Removes the leftovers of dead processes, entries for which `is_wanted` is false, and then the least
    /// recently used entries until at most `max_bytes` remain on disk.
    pub(crate) fn prune(
        &self,
        max_bytes: u64,
        is_wanted: impl Fn(&CacheEntry) -> bool,
    ) -> Result<PruneReport, Error> {
        if !self.root().exists() {
            return Ok(PruneReport::default());
        }

        // Select before locking: checking an entry may hash it.
        let to_remove = select_surplus(self.entries()?, max_bytes, is_wanted);
        let lock = self.lock()?;

        let mut report = self.sweep(&lock)?;
        for entry in &to_remove {
            self.remove_if_current(entry, &lock, &mut report);
        }

        Ok(report)
    }

    /// Removes this entry, but not another one that took its name.
    fn remove_if_current(&self, entry: &CacheEntry, lock: &Lock, report: &mut PruneReport) {
        if entry.is_current() {
            let removed = self.remove(entry.name(), lock);
            let bytes = removed.as_ref().map_or(0, |bytes| *bytes);
            report.add(bytes, removed.map(drop));
        }
    }
}

/// Returns the entries to remove.
fn select_surplus(
    entries: Vec<CacheEntry>,
    max_bytes: u64,
    is_wanted: impl Fn(&CacheEntry) -> bool,
) -> Vec<CacheEntry> {
    let all = entries.into_iter().map(|entry| (entry.last_used(), entry));
    let (mut kept, unwanted): (Vec<_>, Vec<_>) = all.partition(|(last_used, entry)| {
        let is_wanted = is_wanted(entry);
        // Checking the entry may have written identities, which changes the directory's time.
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

use std::cmp::Reverse;

use super::Shelf;
use super::lock::Lock;
use super::place::Place;
use crate::Error;

/// What a pruning removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Templates or layers, those half made or half removed among them.
    pub removed: usize,
    /// Bytes on disk that they took. Those of one that is open somewhere come free when it is closed there.
    pub freed_bytes: u64,
}

impl PruneReport {
    /// Counts one that was to be removed.
    pub(super) fn add(&mut self, bytes: u64, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                self.removed += 1;
                self.freed_bytes += bytes;
            }
            Err(error) => tracing::warn!(%error, "something in the store cannot be removed"),
        }
    }
}

impl Shelf {
    /// Removes what dead makers left, what `is_wanted` does not hold for, and then the least recently used things
    /// until at most `most_bytes` are on disk.
    pub(crate) fn prune(
        &self,
        most_bytes: u64,
        is_wanted: impl Fn(&Place) -> bool,
    ) -> Result<PruneReport, Error> {
        if !self.root().exists() {
            return Ok(PruneReport::default());
        }
        // Looked at before the lock is taken: to look may mean to hash.
        let doomed = surplus(self.places()?, most_bytes, is_wanted);
        let lock = self.lock()?;
        let mut report = self.sweep(&lock)?;
        for place in &doomed {
            self.remove_found(place, &lock, &mut report);
        }
        Ok(report)
    }

    /// Removes this very thing; not one that has taken its name.
    fn remove_found(&self, place: &Place, lock: &Lock, report: &mut PruneReport) {
        if place.is_still_there() {
            let removed = self.remove(place.name(), lock);
            let bytes = removed.as_ref().map_or(0, |bytes| *bytes);
            report.add(bytes, removed.map(drop));
        }
    }
}

/// Those to remove.
fn surplus(places: Vec<Place>, most_bytes: u64, is_wanted: impl Fn(&Place) -> bool) -> Vec<Place> {
    let all = places.into_iter().map(|place| (place.last_used(), place));
    let (mut kept, unwanted): (Vec<_>, Vec<_>) = all.partition(|(last_used, place)| {
        let is_wanted = is_wanted(place);
        // To look at it may have changed the directory.
        if place.last_used() != *last_used {
            place.mark_used(*last_used);
        }
        is_wanted
    });
    kept.sort_by_key(|(last_used, _)| Reverse(*last_used));
    let mut bytes: u64 = 0;
    let fitting = kept
        .iter()
        .take_while(|(_, place)| {
            bytes = bytes.saturating_add(place.bytes());
            bytes <= most_bytes
        })
        .count();
    let surplus = kept.split_off(fitting);
    let both = unwanted.into_iter().chain(surplus);
    both.map(|(_, place)| place).collect()
}

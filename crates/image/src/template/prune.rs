use super::list::ListedTemplate;
use super::lock::Lock;
use super::place::Place;
use super::{TemplateManifest, Templates};
use crate::Error;

/// What [`Templates::prune`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Templates, those half made or half removed among them.
    pub removed: usize,
    /// Bytes on disk that they took. Those of a template that is open somewhere come free when it is
    /// closed there.
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
            Err(error) => tracing::warn!(%error, "a template cannot be removed"),
        }
    }
}

impl Templates {
    /// Removes templates that are damaged, half made, or that `keep` does not want, and then the least
    /// recently used ones until at most `most_bytes` are on disk. One that is being made stays, and one
    /// that is open elsewhere stays usable there.
    ///
    /// # Errors
    /// When the store cannot be read or changed; one template that cannot be removed is a warning.
    pub fn prune(
        &self,
        most_bytes: u64,
        keep: impl Fn(&TemplateManifest) -> bool,
    ) -> Result<PruneReport, Error> {
        if !self.root.exists() {
            return Ok(PruneReport::default());
        }
        // Looked at before the lock is taken: to look may mean to hash.
        let doomed = doomed(self.places()?, most_bytes, keep);
        let lock = self.lock()?;
        let mut report = self.sweep(&lock)?;
        for place in &doomed {
            self.remove_found(place, &lock, &mut report);
        }
        Ok(report)
    }

    /// Removes this very template; not one that has taken its name.
    fn remove_found(&self, place: &Place, lock: &Lock, report: &mut PruneReport) {
        if place.is_still_there() {
            let removed = self.remove(place.key(), lock);
            let bytes = removed.as_ref().map_or(0, |bytes| *bytes);
            report.add(bytes, removed.map(drop));
        }
    }
}

/// Those to remove.
fn doomed(
    places: Vec<Place>,
    most_bytes: u64,
    keep: impl Fn(&TemplateManifest) -> bool,
) -> Vec<Place> {
    let wanted =
        |found: &ListedTemplate| found.is_intact && found.manifest.as_ref().is_ok_and(&keep);
    let all = places
        .into_iter()
        .map(|place| (ListedTemplate::of(&place), place));
    let (mut kept, unwanted): (Vec<_>, Vec<_>) = all.partition(|(found, _)| wanted(found));
    kept.sort_by_key(|(found, _)| std::cmp::Reverse(found.last_used));
    let mut bytes: u64 = 0;
    let fitting = kept
        .iter()
        .take_while(|(found, _)| {
            bytes = bytes.saturating_add(found.bytes);
            bytes <= most_bytes
        })
        .count();
    let surplus = kept.split_off(fitting);
    let both = unwanted.into_iter().chain(surplus);
    both.map(|(_, place)| place).collect()
}

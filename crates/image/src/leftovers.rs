//! Unfinished work of killed builds.
//!
//! A build removes its work when it ends, also by an error or a signal. After a `kill -9` it stays: up to 2.5 GB of
//! kernel sources. The next build removes it; so does the start of every other command that opens the store.

use crate::Error;
use crate::artifact_cache::{ArtifactCache, PruneReport};
use crate::store::Store;

impl Store {
    /// Returns the bytes on disk of the work of killed builds of images, templates, hot images and layers, and
    /// of killed writers of saved states.
    #[must_use]
    pub fn leftover_bytes(&self) -> u64 {
        let built: u64 = self
            .caches()
            .iter()
            .map(ArtifactCache::leftover_bytes)
            .sum();
        self.abandoned_bytes() + built
    }

    /// Removes the work of killed builds. That of running ones stays.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read or changed.
    pub fn remove_leftovers(&self) -> Result<PruneReport, Error> {
        let (removed, freed_bytes) = self.remove_abandoned()?;
        let mut report = PruneReport {
            removed,
            freed_bytes,
        };
        for cache in self.caches() {
            report += cache.remove_leftovers()?;
        }
        report += self.saved_states().remove_unused_files()?;
        Ok(report)
    }

    /// Returns whether there is work of killed builds. Four small directories are read.
    #[must_use]
    pub fn has_leftovers(&self) -> bool {
        self.has_abandoned()
            || self.caches().iter().any(ArtifactCache::has_leftovers)
            || self.saved_states().has_consumed()
    }

    fn caches(&self) -> [ArtifactCache; 4] {
        [
            self.templates().into_cache(),
            self.hot_images().into_cache(),
            self.layers().into_cache(),
            self.saved_states().into_cache(),
        ]
    }

    /// Removes the work of killed builds on a thread, if there is any. If this process ends first, the next one
    /// continues.
    pub fn remove_leftovers_in_background(&self) {
        if !self.has_leftovers() {
            return;
        }

        let store = self.clone();
        std::thread::spawn(move || match store.remove_leftovers() {
            Ok(report) => tracing::info!(
                bytes = report.freed_bytes,
                "removed the unfinished work of a killed build"
            ),
            Err(error) => {
                tracing::warn!(%error, "cannot remove the unfinished work of a killed build");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_work_of_a_killed_build_is_found_and_removed_but_not_that_of_a_running_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.leftover_bytes(), 0);

        // As after a kill: files, and a lock that no process holds.
        let lock = store.lock(|| {}).unwrap();
        let abandoned = directory.path().join("tmp/work-1-x");
        fs::create_dir_all(abandoned.join("source/deep")).unwrap();
        fs::write(abandoned.join("source/deep/file"), vec![7; 1 << 20]).unwrap();
        fs::write(abandoned.with_extension("lock"), "").unwrap();
        let half = directory.path().join("templates/0.new");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("ram"), vec![7; 1 << 20]).unwrap();

        // A build is running: its own start has swept.
        assert_eq!(store.remove_abandoned().unwrap(), (0, 0));
        assert!(abandoned.exists());

        drop(lock);
        assert!(store.leftover_bytes() >= 2 << 20);
        let report = store.remove_leftovers().unwrap();
        assert!(report.freed_bytes >= 2 << 20, "{report:?}");
        assert!(
            !abandoned.exists() && !abandoned.with_extension("lock").exists() && !half.exists()
        );
        assert_eq!(store.leftover_bytes(), 0);
    }
}

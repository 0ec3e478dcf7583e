//! The saved states of a store.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::consumption::is_consumed;
use super::format::PINNED;
use super::id::StateId;
use super::manifest::StateManifest;
use super::opened::OpenedState;
use super::pins::Pins;
use crate::Error;
use crate::artifact_cache::{ArtifactCache, ArtifactKind, CacheEntry, PruneReport};
use crate::store::{Store, sync_directory};

/// The saved states of a store. Any number of threads and processes may use them at once. They are never removed to free
/// space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedStates {
    pub(super) cache: ArtifactCache,
}

/// A saved state in the list of a store.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSummary {
    /// The state's manifest.
    pub manifest: StateManifest,
    /// The size on disk in bytes, without the files that it shares with templates, images and layers.
    pub disk_bytes: u64,
}

impl Store {
    /// Returns the saved states of this store.
    pub fn saved_states(&self) -> SavedStates {
        SavedStates {
            cache: ArtifactCache::new(self, "states", ArtifactKind::SavedState),
        }
    }
}

impl SavedStates {
    /// Returns the cache that holds the states.
    pub(crate) fn into_cache(self) -> ArtifactCache {
        self.cache
    }

    /// Returns the directory of the states.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.cache.root()
    }

    /// Returns the directory of a state.
    #[must_use]
    pub fn path(&self, id: &StateId) -> PathBuf {
        self.cache.path(id.as_str())
    }

    /// Returns all states, sorted by id. A state that cannot be read is an error that names it.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read. A store that does not exist yet is empty.
    pub fn list(&self) -> Result<Vec<Result<StateSummary, Error>>, Error> {
        let entries = self.existing()?;
        let states = entries
            .iter()
            .map(|entry| (entry, StateSummary::load(entry)));
        // A state that was consumed meanwhile is no error.
        let existing = states.filter(|(entry, state)| state.is_ok() || entry.is_current());
        Ok(existing.map(|(_, state)| state).collect())
    }

    /// Returns the entries of states that were not consumed. Whether a damaged one was is unknown.
    fn existing(&self) -> Result<Vec<CacheEntry>, Error> {
        let mut entries = self.cache.entries()?;
        entries.retain(|entry| !is_consumed(entry).unwrap_or(false));
        Ok(entries)
    }

    /// Returns whether there are files of states that were consumed.
    pub(crate) fn has_consumed(&self) -> bool {
        let entries = self.cache.entries().unwrap_or_default();
        entries
            .iter()
            .any(|entry| is_consumed(entry).unwrap_or(false))
    }

    /// Removes the files of states that were consumed.
    pub(super) fn remove_consumed(&self) -> Result<PruneReport, Error> {
        let mut report = PruneReport::default();
        let entries = self.cache.entries()?;
        for entry in entries
            .iter()
            .filter(|entry| is_consumed(entry).unwrap_or(false))
        {
            let lock = self.cache.lock()?;
            // Another thread or process may remove it as well.
            if entry.is_current() {
                let removed = self.cache.remove(entry.name(), &lock);
                let bytes = removed.as_ref().map_or(0, |bytes| *bytes);
                report.add(bytes, removed.map(drop));
            }
        }
        Ok(report)
    }

    /// Opens a state without claiming it.
    ///
    /// # Errors
    /// [`Error::MissingState`], [`Error::DamagedState`] with the file, [`Error::NewerState`], and [`Error::Io`].
    pub fn open(&self, id: &StateId) -> Result<OpenedState, Error> {
        let find = || self.cache.entry(id.as_str());
        let entry = find()?.ok_or_else(|| self.missing(id))?;
        if self.is_gone(&entry)? {
            return Err(self.missing(id));
        }
        OpenedState::load(entry, &self.pins()).or_else(|error| match find()? {
            Some(_) => Err(error),
            None => Err(self.missing(id)),
        })
    }

    /// Returns whether a state was consumed, before or after its directory was opened.
    pub(super) fn is_gone(&self, entry: &CacheEntry) -> Result<bool, Error> {
        let is_consumed = is_consumed(entry);
        if entry.is_current() {
            is_consumed
        } else {
            Ok(true)
        }
    }

    /// Removes pinned files that no state needs, no process uses, and that no template, image or layer has.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read or changed.
    pub fn remove_unused_files(&self) -> Result<PruneReport, Error> {
        if !self.cache.root().exists() {
            return Ok(PruneReport::default());
        }

        let mut report = self.remove_consumed()?;
        let lock = self.cache.lock()?;
        let states: Result<Vec<_>, _> = self.list()?.into_iter().collect();
        match states {
            Ok(states) => {
                let manifests: Vec<_> = states.into_iter().map(|state| state.manifest).collect();
                report += self.pins().remove_unused(&manifests, &lock)?;
                Ok(report)
            }
            // The files that a damaged state needs are unknown: its owner may repair it.
            Err(_) => Ok(report),
        }
    }

    pub(super) fn pins(&self) -> Pins {
        Pins::new(self.cache.path(PINNED))
    }

    pub(super) fn create_pinned_directory(&self) -> Result<(), Error> {
        let path = self.cache.path(PINNED);
        match crate::artifact_cache::private_directory().create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(Error::io("create", &path)(error)),
            // The directory of the states may be new as well.
            Ok(()) => sync_directory(self.cache.root())
                .and_then(|()| sync_directory(self.cache.store().root())),
        }
    }

    pub(super) fn missing(&self, id: &StateId) -> Error {
        Error::MissingState {
            id: id.to_string(),
            store: self.cache.root().to_path_buf(),
        }
    }
}

impl StateSummary {
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        Ok(Self {
            manifest: StateManifest::load(entry)?,
            disk_bytes: entry.bytes(),
        })
    }
}

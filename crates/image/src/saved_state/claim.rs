//! Claims: only one process at a time resumes or deletes a state, and it is consumed at most once.

use std::fs;
use std::io::ErrorKind;

use super::format::CLAIM;
use super::id::StateId;
use super::opened::OpenedState;
use super::saved_states::SavedStates;
use crate::Error;
use crate::artifact_cache::{CacheEntry, Lock};

/// The right to resume or delete a state. It ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct StateClaim {
    states: SavedStates,
    id: StateId,
    entry: CacheEntry,
    lock: Lock,
}

impl SavedStates {
    /// Claims a state.
    ///
    /// # Errors
    /// [`Error::MissingState`] if it does not exist any more, and [`Error::StateInUse`] if another thread or process has
    /// claimed it.
    pub fn claim(&self, id: &StateId) -> Result<StateClaim, Error> {
        let entry = self.cache.entry(id.as_str())?;
        let entry = entry.ok_or_else(|| self.missing(id))?;

        let lock = match Lock::attempt(&entry.path().join(CLAIM)) {
            Ok(lock) => lock.ok_or_else(|| Error::StateInUse { id: id.to_string() })?,
            // It was consumed at this moment.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(self.missing(id));
            }
            Err(error) => return Err(error),
        };
        // It may have been consumed between opening and locking.
        if !entry.is_current() {
            return Err(self.missing(id));
        }

        Ok(StateClaim {
            states: self.clone(),
            id: id.clone(),
            entry,
            lock,
        })
    }
}

impl StateClaim {
    /// Opens the state.
    ///
    /// # Errors
    /// [`Error::DamagedState`] with the file, [`Error::NewerState`], and [`Error::Io`].
    pub fn open(&self) -> Result<OpenedState, Error> {
        self.states.open(&self.id)
    }

    /// Removes the state. When this returns, it is durably gone: also after a crash of the host nobody finds it. Its files
    /// are removed in the background.
    ///
    /// # Errors
    /// [`Error::Io`]; the state stays. [`Error::MissingState`] if it is gone already.
    pub fn consume(self) -> Result<(), Error> {
        let Self {
            states,
            id,
            entry,
            lock,
        } = self;
        let cache_lock = states.cache.lock()?;
        if !entry.is_current() {
            return Err(states.missing(&id));
        }
        let gone = states.cache.take_away(id.as_str(), &cache_lock)?;
        drop(cache_lock);

        std::thread::spawn(move || {
            let _claim = lock;
            if let Err(error) = fs::remove_dir_all(&gone)
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(%error, "cannot remove the files of a resumed state; a later sweep does");
            }
            if let Err(error) = states.remove_unused_files() {
                tracing::warn!(%error, "cannot remove the files that a state needed");
            }
        });
        Ok(())
    }
}

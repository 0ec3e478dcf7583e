//! Claims: only one process at a time resumes or deletes a state, and it is consumed at most once.

use std::io::ErrorKind;

use super::consumption::mark_consumed;
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
        // Its files may not be removed yet, or have come back after a crash of the host.
        if self.is_gone(&entry)? {
            return Err(self.missing(id));
        }

        let lock = match Lock::attempt(&entry.path().join(CLAIM)) {
            Ok(lock) => lock.ok_or_else(|| Error::StateInUse { id: id.to_string() })?,
            // It was consumed at this moment.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(self.missing(id));
            }
            Err(error) => return Err(error),
        };
        // It may have been consumed between opening and locking.
        if self.is_gone(&entry)? {
            return Err(self.missing(id));
        }

        Ok(StateClaim {
            states: self.clone(),
            id: id.clone(),
            entry,
            lock,
        })
    }

    /// Deletes a state. Returns `false` if it does not exist.
    ///
    /// # Errors
    /// [`Error::StateInUse`] if it is being resumed, and [`Error::Io`].
    pub fn delete(&self, id: &StateId) -> Result<bool, Error> {
        match self.claim(id).and_then(StateClaim::consume) {
            Ok(()) => Ok(true),
            Err(Error::MissingState { .. }) => Ok(false),
            // Without its claim, it cannot be resumed.
            Err(error) if error.is_damage() => {
                let lock = self.cache.lock()?;
                self.cache.remove(id.as_str(), &lock).map(|_| true)
            }
            Err(error) => Err(error),
        }
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

    /// Consumes the state. When this returns, it is durably gone: it is not found after a crash of the host either. Its files
    /// are removed in the background, or by the next start.
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
        if !entry.is_current() {
            return Err(states.missing(&id));
        }
        mark_consumed(&entry)?;

        std::thread::spawn(move || {
            let removed = states.remove_consumed();
            drop(lock);
            let removed = removed.and_then(|_| states.remove_unused_files());
            if let Err(error) = removed {
                tracing::warn!(%error, "cannot remove the files of a state; a later start does");
            }
        });
        Ok(())
    }
}

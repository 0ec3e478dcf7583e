//! Claims: only one process at a time resumes or deletes a state, and it is consumed at most once.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use super::format::{CLAIM, CONSUMED, UNCLAIMED};
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

    /// Returns whether a state was consumed, before or after its directory was opened.
    pub(super) fn is_gone(&self, entry: &CacheEntry) -> Result<bool, Error> {
        let is_consumed = is_consumed(entry);
        if entry.is_current() {
            is_consumed
        } else {
            Ok(true)
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

    /// Consumes the state. When this returns, it is durably gone: also after a crash of the host nobody finds it. Its files
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

/// Returns whether a state was consumed, and its files are only not removed yet.
pub(super) fn is_consumed(entry: &CacheEntry) -> Result<bool, Error> {
    match entry.read_file(CLAIM)?.as_slice() {
        text if text == UNCLAIMED => Ok(false),
        text if text == CONSUMED => Ok(true),
        _ => Err(entry.damaged(CLAIM, "it has other contents".to_owned())),
    }
}

fn mark_consumed(entry: &CacheEntry) -> Result<(), Error> {
    let path = entry.path().join(CLAIM);
    let file = File::options().write(true).open(&path);
    let file = file.map_err(Error::io("open", &path))?;
    file.write_all_at(CONSUMED, 0)
        .and_then(|()| file.sync_data())
        .map_err(Error::io("write", &path))
}

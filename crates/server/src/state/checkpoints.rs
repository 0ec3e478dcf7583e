//! Saved states, in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use fumehood_engine::Checkpoint;

use crate::api::responses::CheckpointView;
use crate::error::{ApiError, Kind};
use crate::owner::Owner;
use crate::sync::lock;

/// Saved states of one owner: each takes memory of this host.
const MOST: usize = 16;

#[derive(Debug, Clone)]
struct Saved {
    owner: Owner,
    view: CheckpointView,
    checkpoint: Checkpoint,
}

/// Saved states, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints(Mutex<BTreeMap<String, Saved>>);

impl Checkpoints {
    pub(crate) fn find(&self, owner: &Owner, id: &str) -> Result<Checkpoint, ApiError> {
        let all = lock(&self.0);
        let found = all.get(id).filter(|saved| saved.owner == *owner);
        let found = found.map(|saved| saved.checkpoint.clone());
        found.ok_or_else(|| ApiError::not_found("checkpoint", id))
    }

    pub(crate) fn check(&self, owner: &Owner) -> Result<(), ApiError> {
        let there = lock(&self.0)
            .values()
            .filter(|saved| saved.owner == *owner)
            .count();
        if there < MOST {
            return Ok(());
        }
        let message =
            format!("{there} checkpoints are there, the most that one key may have; remove one");
        Err(ApiError::new(Kind::Busy, message))
    }

    /// Keeps a saved state.
    pub(crate) fn insert(&self, owner: Owner, view: CheckpointView, checkpoint: Checkpoint) {
        let id = view.id.clone();
        let saved = Saved {
            owner,
            view,
            checkpoint,
        };
        lock(&self.0).insert(id, saved);
    }

    /// Those of this owner, the newest first.
    pub(crate) fn list(&self, owner: &Owner) -> Vec<CheckpointView> {
        let all = lock(&self.0);
        let theirs = all.values().rev().filter(|saved| saved.owner == *owner);
        theirs.map(|saved| saved.view.clone()).collect()
    }

    /// Removes one of this owner.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(crate) fn remove(&self, owner: &Owner, id: &str) -> Result<(), ApiError> {
        let mut all = lock(&self.0);
        match all.get(id) {
            Some(saved) if saved.owner == *owner => {
                all.remove(id);
                Ok(())
            }
            _ => Err(ApiError::not_found("checkpoint", id)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}

//! The checkpoints in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use fumehood_engine::{Checkpoint, Language};

use crate::api::requests::NetworkRequest;
use crate::api::responses::CheckpointResponse;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::sync::lock;

/// The checkpoints that one owner may have: each takes memory of this host.
const MAX_CHECKPOINTS: usize = 16;

#[derive(Debug, Clone)]
struct StoredCheckpoint {
    owner: Owner,
    response: CheckpointResponse,
    checkpoint: Checkpoint,
    network: Option<NetworkRequest>,
}

/// The checkpoints of all owners, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints(Mutex<BTreeMap<String, StoredCheckpoint>>);

impl Checkpoints {
    /// Returns a checkpoint of this owner, with the language and the network that its sandbox was started for.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if there is none, or it belongs to another owner.
    pub(crate) fn find(
        &self,
        owner: &Owner,
        id: &str,
    ) -> Result<(Checkpoint, Option<Language>, Option<NetworkRequest>), ApiError> {
        let all = lock(&self.0);
        let stored = all.get(id).filter(|stored| stored.owner == *owner);
        let checkpoint = stored.map(|stored| {
            let (language, network) = (stored.response.language, stored.network.clone());
            (stored.checkpoint.clone(), language, network)
        });
        checkpoint.ok_or_else(|| ApiError::not_found("checkpoint", id))
    }

    /// Checks that this owner may store one more checkpoint.
    ///
    /// # Errors
    /// [`ApiErrorKind::Busy`].
    pub(crate) fn check_capacity(&self, owner: &Owner) -> Result<(), ApiError> {
        let all = lock(&self.0);
        let count = all.values().filter(|stored| stored.owner == *owner).count();
        if count < MAX_CHECKPOINTS {
            return Ok(());
        }

        let message =
            format!("limit of {MAX_CHECKPOINTS} checkpoints per key reached; delete one first");
        Err(ApiError::new(ApiErrorKind::Busy, message))
    }

    /// Stores a checkpoint.
    pub(crate) fn insert(
        &self,
        owner: Owner,
        response: CheckpointResponse,
        checkpoint: Checkpoint,
        network: Option<NetworkRequest>,
    ) {
        let id = response.id.clone();
        let stored = StoredCheckpoint {
            owner,
            response,
            checkpoint,
            network,
        };

        lock(&self.0).insert(id, stored);
    }

    /// Returns a checkpoint of this owner as callers see it.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] as for [`find`](Self::find).
    pub(crate) fn response(&self, owner: &Owner, id: &str) -> Result<CheckpointResponse, ApiError> {
        let all = lock(&self.0);
        let stored = all.get(id).filter(|stored| stored.owner == *owner);
        let response = stored.map(|stored| stored.response.clone());
        response.ok_or_else(|| ApiError::not_found("checkpoint", id))
    }

    /// Returns the checkpoints of this owner, the newest first.
    pub(crate) fn list(&self, owner: &Owner) -> Vec<CheckpointResponse> {
        let all = lock(&self.0);
        let own = all.values().rev().filter(|stored| stored.owner == *owner);
        own.map(|stored| stored.response.clone()).collect()
    }

    /// Removes a checkpoint of this owner.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] as for [`find`](Self::find).
    pub(crate) fn remove(&self, owner: &Owner, id: &str) -> Result<(), ApiError> {
        let mut all = lock(&self.0);
        match all.get(id) {
            Some(stored) if stored.owner == *owner => {
                all.remove(id);
                Ok(())
            }
            _ => Err(ApiError::not_found("checkpoint", id)),
        }
    }

    /// Removes all checkpoints of this owner.
    pub(crate) fn remove_all(&self, owner: &Owner) {
        lock(&self.0).retain(|_, stored| stored.owner != *owner);
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}

//! Saved states, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fumehood_engine::Checkpoint;
use jiff::Timestamp;

use crate::error::{ApiError, Kind};
use crate::owner::{Owner, fresh_id, written};
use crate::sandboxes::Kept;
use crate::service::{Service, lock};
use crate::view::CheckpointView;

/// Saved states of one owner: each takes memory of this host.
const MOST: usize = 16;

/// Sandboxes that one fork makes at most.
const FORKS: usize = 16;

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

    fn check(&self, owner: &Owner) -> Result<(), ApiError> {
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

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}

impl Service {
    /// Saves a sandbox's state, which goes on.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox); [`Kind::Conflict`] while runs go on in it; [`Kind::Busy`].
    pub async fn checkpoint(&self, owner: &Owner, id: &str) -> Result<CheckpointView, ApiError> {
        self.takes_work()?;
        let kept = self.sandbox(owner, id)?;
        self.is_quiet(&kept)?;
        self.0.checkpoints.check(owner)?;
        let (service, owner) = (self.clone(), owner.clone());
        // To its end, whoever goes away: a sandbox whose saving stops half-way stands still.
        let saving = tokio::spawn(async move {
            let checkpoint = kept
                .handle()
                .checkpoint()
                .await
                .map_err(|e| kept.explain(e))?;
            service.0.checkpoints.check(&owner)?;
            let view = CheckpointView {
                id: fresh_id("cp").map_err(|e| ApiError::internal(&e))?,
                sandbox: kept.id().to_owned(),
                bytes: checkpoint.bytes(),
                created_at: written(Timestamp::now()),
            };
            let saved = Saved {
                owner,
                view: view.clone(),
                checkpoint,
            };
            lock(&service.0.checkpoints.0).insert(view.id.clone(), saved);
            Ok(view)
        });
        saving.await.map_err(|e| ApiError::internal(&e))?
    }

    /// Saved states of this owner, the newest first.
    #[must_use]
    pub fn list_checkpoints(&self, owner: &Owner) -> Vec<CheckpointView> {
        let all = lock(&self.0.checkpoints.0);
        let theirs = all.values().rev().filter(|saved| saved.owner == *owner);
        theirs.map(|saved| saved.view.clone()).collect()
    }

    /// Removes a saved state. Sandboxes that began from it stay.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn remove_checkpoint(&self, owner: &Owner, id: &str) -> Result<(), ApiError> {
        self.0.checkpoints.find(owner, id)?;
        lock(&self.0.checkpoints.0).remove(id);
        Ok(())
    }

    /// Starts sandboxes that go on from the state of one.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn fork(
        &self,
        owner: &Owner,
        id: &str,
        count: usize,
    ) -> Result<Vec<Arc<Kept>>, ApiError> {
        self.takes_work()?;
        if !(1..=FORKS).contains(&count) {
            let message = format!("`count`: 1 to {FORKS} are allowed");
            return Err(ApiError::invalid(message));
        }
        let kept = self.sandbox(owner, id)?;
        self.is_quiet(&kept)?;
        let starting = self.starting(owner, count)?;
        let (service, owner) = (self.clone(), owner.clone());
        let forking = tokio::spawn(async move {
            let children = kept
                .handle()
                .fork(count)
                .await
                .map_err(|e| kept.explain(e))?;
            let mut all = Vec::with_capacity(count);
            for child in children {
                all.push(service.keep(&owner, child, None, kept.times())?);
            }
            drop(starting);
            Ok(all)
        });
        forking.await.map_err(|e| ApiError::internal(&e))?
    }

    /// Refuses where runs go on in a sandbox: their followers are part of no saved state.
    fn is_quiet(&self, kept: &Kept) -> Result<(), ApiError> {
        let jobs = lock(&self.0.jobs);
        let goes_on = jobs.live().find(|job| job.sandbox() == Some(kept.id()));
        match goes_on {
            None => Ok(()),
            Some(job) => {
                let message = format!(
                    "the run {} goes on in this sandbox; wait for its end, or cancel it",
                    job.id()
                );
                let error = ApiError::new(Kind::Conflict, message);
                Err(ApiError {
                    retry: "safe",
                    ..error
                })
            }
        }
    }
}

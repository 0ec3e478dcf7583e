//! What callers can have done with saved states.

use std::sync::Arc;

use jiff::Timestamp;

use super::service::Service;
use crate::api::responses::CheckpointView;
use crate::api::timestamp::written;
use crate::error::{ApiError, Kind};
use crate::id::fresh_id;
use crate::owner::Owner;
use crate::state::sandbox_handle::Kept;
use crate::sync::lock;

/// Sandboxes that one fork makes at most.
const FORKS: usize = 16;

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
            service
                .0
                .checkpoints
                .insert(owner, view.clone(), checkpoint);
            Ok(view)
        });
        saving.await.map_err(|e| ApiError::internal(&e))?
    }

    /// Saved states of this owner, the newest first.
    #[must_use]
    pub fn list_checkpoints(&self, owner: &Owner) -> Vec<CheckpointView> {
        self.0.checkpoints.list(owner)
    }

    /// Removes a saved state. Sandboxes that began from it stay.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn remove_checkpoint(&self, owner: &Owner, id: &str) -> Result<(), ApiError> {
        self.0.checkpoints.remove(owner, id)
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

//! Operations on checkpoints, and forks.

use std::sync::Arc;

use fumehood_engine::Retry;
use jiff::Timestamp;

use super::service::Service;
use crate::api::program::ProgramResponse;
use crate::api::responses::CheckpointResponse;
use crate::api::timestamp::format_timestamp;
use crate::error::{ApiError, ApiErrorKind};
use crate::id::new_id;
use crate::owner::Owner;
use crate::state::sandbox_handle::{Description, SandboxHandle};
use crate::sync::lock;

/// The sandboxes that one fork starts, at most.
const MAX_FORKS: usize = 16;

impl Service {
    /// Saves the state of a sandbox. The sandbox continues.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox); [`ApiErrorKind::Conflict`] while runs are active in it; [`ApiErrorKind::Busy`] if
    /// the owner has too many checkpoints.
    pub async fn create_checkpoint(
        &self,
        owner: &Owner,
        id: &str,
    ) -> Result<CheckpointResponse, ApiError> {
        self.ensure_accepting()?;
        let sandbox = self.sandbox(owner, id)?;
        self.ensure_no_active_runs(&sandbox)?;
        self.0.checkpoints.check_capacity(owner)?;

        // The task runs to its end even if the caller disconnects: a sandbox whose checkpoint is interrupted stands still.
        let (service, owner) = (self.clone(), owner.clone());
        let task = tokio::spawn(async move {
            let saved = sandbox.engine_sandbox().checkpoint().await;
            let checkpoint = saved.map_err(|e| sandbox.to_api_error(e))?;

            let checkpoints = &service.0.checkpoints;
            checkpoints.check_capacity(&owner)?;
            let (running_programs, running_program_count) =
                ProgramResponse::list(checkpoint.running_programs());
            let response = CheckpointResponse {
                id: new_id("cp").map_err(|e| ApiError::internal(&e))?,
                sandbox: sandbox.id().to_owned(),
                language: sandbox.language(),
                bytes: checkpoint.bytes(),
                created_at: format_timestamp(Timestamp::now()),
                running_programs,
                running_program_count,
            };
            checkpoints.insert(owner, response.clone(), checkpoint);

            Ok(response)
        });

        task.await.map_err(|e| ApiError::internal(&e))?
    }

    /// Returns the checkpoints of this owner, the newest first.
    #[must_use]
    pub fn list_checkpoints(&self, owner: &Owner) -> Vec<CheckpointResponse> {
        self.0.checkpoints.list(owner)
    }

    /// Deletes a checkpoint. Sandboxes that were started from it continue.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if there is none, or it belongs to another owner.
    pub fn delete_checkpoint(&self, owner: &Owner, id: &str) -> Result<(), ApiError> {
        self.0.checkpoints.remove(owner, id)
    }

    /// Starts `count` sandboxes (1 to 16) from the current state of one.
    ///
    /// # Errors
    /// As [`create_checkpoint`](Self::create_checkpoint); [`ApiErrorKind::Busy`] if the owner would have too many
    /// sandboxes.
    pub async fn fork_sandbox(
        &self,
        owner: &Owner,
        id: &str,
        count: usize,
    ) -> Result<Vec<Arc<SandboxHandle>>, ApiError> {
        self.ensure_accepting()?;
        if !(1..=MAX_FORKS).contains(&count) {
            let message = format!("`count` must be between 1 and {MAX_FORKS}");
            return Err(ApiError::invalid(message));
        }

        let sandbox = self.sandbox(owner, id)?;
        self.ensure_no_active_runs(&sandbox)?;
        let reservation = self.reserve(owner, count, None)?;

        // The task runs to its end even if the caller disconnects, as for a checkpoint.
        let (service, owner) = (self.clone(), owner.clone());
        let task = tokio::spawn(async move {
            let forked = sandbox.engine_sandbox().fork(count).await;
            let children = forked.map_err(|e| sandbox.to_api_error(e))?;

            let mut adopted = Vec::with_capacity(count);

            for child in children {
                let description = Description {
                    name: None,
                    language: sandbox.language(),
                };
                adopted.push(service.adopt(&owner, child, description, sandbox.timeouts())?);
            }

            drop(reservation);
            Ok(adopted)
        });

        task.await.map_err(|e| ApiError::internal(&e))?
    }

    /// Checks that no run is active in a sandbox: a saved state cannot contain the connections to its callers.
    fn ensure_no_active_runs(&self, sandbox: &SandboxHandle) -> Result<(), ApiError> {
        let runs = lock(&self.0.runs);
        let active = runs
            .active()
            .find(|task| task.sandbox() == Some(sandbox.id()));

        match active {
            None => Ok(()),
            Some(task) => {
                let message = format!(
                    "run {} is active in this sandbox; wait for its end, or cancel it",
                    task.id()
                );
                let error = ApiError::new(ApiErrorKind::Conflict, message);
                Err(error.with_retry(Retry::Safe))
            }
        }
    }
}

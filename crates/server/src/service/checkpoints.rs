//! Operations on checkpoints, and forks.

use std::sync::Arc;

use fumehood_engine::{Checkpoint, Language, Retry};
use jiff::Timestamp;

use super::service::Service;
use crate::api::object_name::ObjectName;
use crate::api::program::ProgramResponse;
use crate::api::requests::{CheckpointRequest, NetworkRequest};
use crate::api::responses::CheckpointResponse;
use crate::api::timestamp::format_timestamp;
use crate::error::{ApiError, ApiErrorKind};
use crate::id::new_id;
use crate::owner::Owner;
use crate::state::sandbox::{Description, SandboxHandle, StateKind, StateLabel};
use crate::storage::resume::NetworkRecord;
use crate::storage::saved_checkpoints::{self, SavedCheckpoint};
use crate::sync::lock;

/// A checkpoint to start a sandbox from, and what its sandbox is described by.
pub(super) struct CheckpointOrigin {
    pub(super) checkpoint: Checkpoint,
    pub(super) language: Option<Language>,
    /// The network that the sandbox gets.
    pub(super) network: Option<NetworkRequest>,
}

/// A copy exposes no ports of its origin.
fn without_ports(network: NetworkRequest) -> NetworkRequest {
    NetworkRequest {
        expose: Vec::new(),
        ..network
    }
}

fn checkpoint_name_conflict(name: &str) -> ApiError {
    let message = format!(
        "the name `{name}` is in use by another checkpoint; delete that one, or choose another name"
    );
    ApiError::new(ApiErrorKind::Conflict, message)
}

/// The sandboxes that one fork starts, at most.
const MAX_FORKS: usize = 16;

impl Service {
    /// Saves the state of a sandbox. The sandbox continues. A durable checkpoint is on disk when this returns.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox); [`ApiErrorKind::Conflict`] while runs are active in it, or if the name is in use;
    /// [`ApiErrorKind::Busy`] if the owner has too many checkpoints.
    pub(crate) async fn create_checkpoint(
        &self,
        owner: &Owner,
        id: &str,
        request: CheckpointRequest,
    ) -> Result<CheckpointResponse, ApiError> {
        self.ensure_accepting()?;
        let durable = request.durable.unwrap_or(request.name.is_some());
        if durable {
            self.ensure_durable()?;
            self.check_state_quota(owner)?;
        } else if request.name.is_some() {
            let message =
                "a checkpoint with a `name` is durable; leave `durable` out, or leave the name out";
            return Err(ApiError::invalid(message));
        } else {
            self.0.checkpoints.check_capacity(owner)?;
        }
        self.check_checkpoint_name(owner, request.name.as_ref())?;

        let sandbox = self.sandbox(owner, id).await?;
        self.ensure_no_active_runs(&sandbox)?;

        // The task runs to its end even if the caller disconnects: a sandbox whose checkpoint is interrupted stands still.
        let (service, owner) = (self.clone(), owner.clone());
        let task = tokio::spawn(async move {
            let saved = sandbox.engine_sandbox().checkpoint().await;
            let checkpoint = saved.map_err(|e| sandbox.to_api_error(e))?;

            let (running_programs, running_program_count) =
                ProgramResponse::list(checkpoint.running_programs());
            let response = CheckpointResponse {
                id: new_id("cp").map_err(|e| ApiError::internal(&e))?,
                name: request.name.map(String::from),
                durable,
                sandbox: sandbox.id().to_owned(),
                language: sandbox.language(),
                bytes: checkpoint.bytes(),
                created_at: format_timestamp(Timestamp::now()),
                running_programs,
                running_program_count,
            };

            if durable {
                return service
                    .save_checkpoint(&sandbox, &checkpoint, response)
                    .await;
            }

            let checkpoints = &service.0.checkpoints;
            checkpoints.check_capacity(&owner)?;
            let network = sandbox.network_request().map(without_ports);
            checkpoints.insert(owner, response.clone(), checkpoint, network);
            Ok(response)
        });

        task.await.map_err(|e| ApiError::internal(&e))?
    }

    /// Writes a checkpoint to disk, and records it.
    async fn save_checkpoint(
        &self,
        sandbox: &SandboxHandle,
        checkpoint: &Checkpoint,
        response: CheckpointResponse,
    ) -> Result<CheckpointResponse, ApiError> {
        let label = StateLabel {
            id: response.id.clone(),
            name: response.name.as_deref().and_then(|name| name.parse().ok()),
            ..self.label(sandbox, StateKind::Checkpoint)
        };
        let saved = checkpoint.save(&label.to_string()).await?;

        let response = CheckpointResponse {
            bytes: saved.disk_bytes,
            ..response
        };
        let record = SavedCheckpoint {
            owner: sandbox.owner().clone(),
            state: saved.id.to_string(),
            response: response.clone(),
            network: sandbox.network_request().as_ref().map(NetworkRecord::from),
            created_ms: Timestamp::now().as_millisecond(),
        };

        let recorded = saved_checkpoints::insert(&self.0.store, &record);
        if matches!(recorded, Ok(true)) {
            return Ok(response);
        }

        self.delete_state(&saved.id).await;
        recorded?;
        Err(checkpoint_name_conflict(
            response.name.as_deref().unwrap_or_default(),
        ))
    }

    fn check_checkpoint_name(
        &self,
        owner: &Owner,
        name: Option<&ObjectName>,
    ) -> Result<(), ApiError> {
        let Some(name) = name.map(ObjectName::as_str) else {
            return Ok(());
        };
        match saved_checkpoints::find(&self.0.store, owner, name)? {
            Some(_) => Err(checkpoint_name_conflict(name)),
            None => Ok(()),
        }
    }

    /// Returns a checkpoint to start a sandbox from, by its id or name. `network` replaces that of a durable one.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`]; [`ApiErrorKind::Invalid`] for a network with a checkpoint in memory; and why a durable
    /// one cannot be loaded.
    pub(super) async fn checkpoint_to_open(
        &self,
        owner: &Owner,
        id: &str,
        network: Option<&NetworkRequest>,
    ) -> Result<CheckpointOrigin, ApiError> {
        let Some(record) = saved_checkpoints::find(&self.0.store, owner, id)? else {
            let (checkpoint, language, origin) = self.0.checkpoints.find(owner, id)?;
            if network.is_some() {
                let message = "`network` can only be set together with a durable checkpoint; another one determines it";
                return Err(ApiError::invalid(message));
            }
            return Ok(CheckpointOrigin {
                checkpoint,
                language,
                network: origin,
            });
        };

        let recorded = record.network.map(NetworkRequest::from);
        let request = network.cloned().or(recorded);
        let network = request.as_ref().map(|request| self.network(owner, request));
        let state = record.state.parse().map_err(|e| ApiError::internal(&e))?;
        let engine = self.engine()?;
        let loaded = engine.load_checkpoint(&state, network.transpose()?);

        Ok(CheckpointOrigin {
            checkpoint: loaded.await?,
            language: record.response.language,
            network: request,
        })
    }

    /// Returns a checkpoint of this owner, by its id or name.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if there is none, or it belongs to another owner.
    pub(crate) fn find_checkpoint(
        &self,
        owner: &Owner,
        id: &str,
    ) -> Result<CheckpointResponse, ApiError> {
        match saved_checkpoints::find(&self.0.store, owner, id)? {
            Some(saved) => Ok(saved.response),
            None => self.0.checkpoints.response(owner, id),
        }
    }

    /// Returns the checkpoints of this owner, the newest first.
    ///
    /// # Errors
    /// [`ApiErrorKind::Internal`].
    pub(crate) fn list_checkpoints(
        &self,
        owner: &Owner,
    ) -> Result<Vec<CheckpointResponse>, ApiError> {
        let saved = saved_checkpoints::list(&self.0.store)?;
        let saved = saved.into_iter().filter(|saved| saved.owner == *owner);
        let mut all = self.0.checkpoints.list(owner);
        all.extend(saved.map(|saved| saved.response));
        all.sort_by(|one, other| other.id.cmp(&one.id));
        Ok(all)
    }

    /// Deletes a checkpoint, by its id or name. Sandboxes that were started from it continue.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if there is none, or it belongs to another owner.
    pub(crate) async fn delete_checkpoint(&self, owner: &Owner, id: &str) -> Result<(), ApiError> {
        match saved_checkpoints::find(&self.0.store, owner, id)? {
            Some(saved) => self.delete_saved_checkpoint(&saved).await,
            None => self.0.checkpoints.remove(owner, id),
        }
    }

    /// Deletes a durable checkpoint.
    pub(super) async fn delete_saved_checkpoint(
        &self,
        saved: &SavedCheckpoint,
    ) -> Result<(), ApiError> {
        // If the server is killed in between, its successor deletes the state.
        saved_checkpoints::delete(&self.0.store, &saved.response.id)?;
        if let Ok(state) = saved.state.parse() {
            self.delete_state(&state).await;
        }
        Ok(())
    }

    /// Starts `count` sandboxes (1 to 16) from the current state of one.
    ///
    /// # Errors
    /// As `create_checkpoint`; [`ApiErrorKind::Busy`] if the owner would have too many
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

        let sandbox = self.sandbox(owner, id).await?;
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
                    network: sandbox.network_request().map(without_ports),
                };
                adopted.push(service.adopt(&owner, child, description, sandbox.timeouts())?);
            }

            drop(reservation);
            Ok(adopted)
        });

        task.await.map_err(|e| ApiError::internal(&e))?
    }

    /// Checks that no run is active in a sandbox: a saved state cannot contain the connections to its callers.
    pub(super) fn ensure_no_active_runs(&self, sandbox: &SandboxHandle) -> Result<(), ApiError> {
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

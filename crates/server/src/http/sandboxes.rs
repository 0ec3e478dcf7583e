//! Routes of sandboxes and checkpoints.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use fumehood_engine::{Language, PortMapping};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Caller, Json, Operator, Path, Query, large_json};
use super::runs::checked_limit;
use super::sse::{AfterQuery, EventResponse, archived_stream, event_stream};
use crate::api::requests::{
    CheckpointRequest, ForkRequest, InstallRequest, PortRequest, ResumeRequest, SandboxRequest,
    TimeoutsRequest,
};
use crate::api::responses::{
    CheckpointListResponse, CheckpointResponse, InstallResponse, PortResponse, ProcessListResponse,
};
use crate::api::sandbox_responses::{
    OwnedSandboxListResponse, SandboxListResponse, SandboxResponse, SandboxState,
};
use crate::error::ApiError;
use crate::service::Service;
use crate::state::sandbox::SandboxLookup;
use crate::storage::records::Filter;

/// Which sandboxes to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SandboxesQuery {
    /// Only sandboxes in this state.
    #[param(inline)]
    state: Option<SandboxState>,
    /// Only sandboxes with this name.
    name: Option<String>,
    /// The maximum number of sandboxes; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only sandboxes that were started before the one with this id.
    before: Option<String>,
}

/// List sandboxes, the newest first
#[utoipa::path(get, path = "/v1/sandboxes", params(SandboxesQuery), responses((status = 200, body = SandboxListResponse)))]
pub(super) async fn list(
    State(service): State<Service>,
    Caller(owner): Caller,
    Query(query): Query<SandboxesQuery>,
) -> Result<Response, ApiError> {
    let filter = Filter {
        name: query.name,
        before: query.before,
        limit: checked_limit(query.limit)?,
        ..Filter::default()
    };

    let list = {
        let service = service.clone();
        move || {
            let sandboxes = service.list_sandboxes(&owner, query.state, filter)?;
            Ok(SandboxListResponse { sandboxes })
        }
    };
    large_json(&service, list).await
}

/// Start a sandbox
#[utoipa::path(post, path = "/v1/sandboxes", request_body = SandboxRequest, responses((status = 201, body = SandboxResponse)))]
pub(super) async fn create(
    State(service): State<Service>,
    Caller(owner): Caller,
    Json(request): Json<SandboxRequest>,
) -> Result<(StatusCode, axum::Json<SandboxResponse>), ApiError> {
    let sandbox = service.create_sandbox(&owner, &request).await?;
    Ok((StatusCode::CREATED, axum::Json(sandbox.response())))
}

/// Get a sandbox, running, paused or ended
#[utoipa::path(get, path = "/v1/sandboxes/{id}", params(("id" = String, Path)), responses((status = 200, body = SandboxResponse)))]
pub(super) async fn get(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<SandboxResponse>, ApiError> {
    let sandbox = service.find_sandbox(&owner, &id)?;
    Ok(axum::Json(sandbox.into_response()))
}

/// Change the timeouts of a sandbox
#[utoipa::path(patch, path = "/v1/sandboxes/{id}", params(("id" = String, Path)), request_body = TimeoutsRequest, responses((status = 200, body = SandboxResponse)))]
pub(super) async fn set_timeouts(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(request): Json<TimeoutsRequest>,
) -> Result<axum::Json<SandboxResponse>, ApiError> {
    let sandbox = service.set_timeouts(&owner, &id, &request)?;
    Ok(axum::Json(sandbox))
}

/// End a sandbox with everything that runs in it
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", params(("id" = String, Path)), responses((status = 200, body = SandboxResponse)))]
pub(super) async fn end(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<SandboxResponse>, ApiError> {
    let sandbox = service.end_sandbox(&owner, &id).await?;
    Ok(axum::Json(sandbox))
}

/// Pause a sandbox: save its state on disk, and end its VM
#[utoipa::path(post, path = "/v1/sandboxes/{id}/pause", params(("id" = String, Path)), responses((status = 200, body = SandboxResponse)))]
pub(super) async fn pause(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<SandboxResponse>, ApiError> {
    Ok(axum::Json(service.pause_sandbox(&owner, &id).await?))
}

/// Resume a paused sandbox. Every other call that needs its VM does so, too
#[utoipa::path(post, path = "/v1/sandboxes/{id}/resume", params(("id" = String, Path)), request_body = ResumeRequest, responses((status = 200, body = SandboxResponse)))]
pub(super) async fn resume(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(request): Json<ResumeRequest>,
) -> Result<axum::Json<SandboxResponse>, ApiError> {
    let sandbox = service.resume_sandbox(&owner, &id, request).await?;
    Ok(axum::Json(sandbox))
}

/// Fork a sandbox: start new ones from its current state
#[utoipa::path(post, path = "/v1/sandboxes/{id}/fork", params(("id" = String, Path)), request_body = ForkRequest, responses((status = 201, body = SandboxListResponse)))]
pub(super) async fn fork(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(request): Json<ForkRequest>,
) -> Result<(StatusCode, axum::Json<SandboxListResponse>), ApiError> {
    let forks = service.fork_sandbox(&owner, &id, request.count).await?;
    let sandboxes = forks.iter().map(|sandbox| sandbox.response()).collect();
    let list = SandboxListResponse { sandboxes };
    Ok((StatusCode::CREATED, axum::Json(list)))
}

/// Create a checkpoint of a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/checkpoints", params(("id" = String, Path)), request_body = CheckpointRequest, responses((status = 201, body = CheckpointResponse)))]
pub(super) async fn create_checkpoint(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(request): Json<CheckpointRequest>,
) -> Result<(StatusCode, axum::Json<CheckpointResponse>), ApiError> {
    let checkpoint = service.create_checkpoint(&owner, &id, request).await?;
    Ok((StatusCode::CREATED, axum::Json(checkpoint)))
}

/// List checkpoints, the newest first
#[utoipa::path(get, path = "/v1/checkpoints", responses((status = 200, body = CheckpointListResponse)))]
pub(super) async fn list_checkpoints(
    State(service): State<Service>,
    Caller(owner): Caller,
) -> Result<axum::Json<CheckpointListResponse>, ApiError> {
    let checkpoints = service.list_checkpoints(&owner)?;
    Ok(axum::Json(CheckpointListResponse { checkpoints }))
}

/// Get a checkpoint
#[utoipa::path(get, path = "/v1/checkpoints/{id}", params(("id" = String, Path)), responses((status = 200, body = CheckpointResponse)))]
pub(super) async fn get_checkpoint(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<CheckpointResponse>, ApiError> {
    Ok(axum::Json(service.find_checkpoint(&owner, &id)?))
}

/// Delete a checkpoint
#[utoipa::path(delete, path = "/v1/checkpoints/{id}", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn delete_checkpoint(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<StatusCode, ApiError> {
    service.delete_checkpoint(&owner, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the programs that run in a sandbox
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes", params(("id" = String, Path)), responses((status = 200, body = ProcessListResponse)))]
pub(super) async fn list_processes(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<ProcessListResponse>, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let listed = sandbox.engine_sandbox().processes().await;
    let listed = listed.map_err(|e| sandbox.to_api_error(e))?;
    let processes = listed.iter().map(serde_json::to_value);
    let processes = processes.filter_map(Result::ok).collect();
    Ok(axum::Json(ProcessListResponse { processes }))
}

/// Close a context, which ends its interpreter
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/contexts/{name}", params(("id" = String, Path), ("name" = String, Path)), responses((status = 204)))]
pub(super) async fn close_context(
    State(service): State<Service>,
    Caller(owner): Caller,
    axum::extract::Path((id, name)): axum::extract::Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    // A context is closed by its name; the language does not matter.
    let context = sandbox.engine_sandbox().context(name, Language::Python);
    let closed = context.close().await;
    closed.map_err(|e| sandbox.to_api_error(e))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Install packages in a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/packages", params(("id" = String, Path)), request_body = InstallRequest, responses((status = 200, body = InstallResponse)))]
pub(super) async fn install(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(request): Json<InstallRequest>,
) -> Result<axum::Json<InstallResponse>, ApiError> {
    let InstallRequest { language, packages } = request;
    let installed = service.install_packages(&owner, &id, language, &packages);
    let installed = installed.await?;
    Ok(axum::Json(InstallResponse { installed }))
}

/// Expose a sandbox port on the host's loopback interface
#[utoipa::path(post, path = "/v1/sandboxes/{id}/ports", params(("id" = String, Path)), request_body = PortRequest, responses((status = 201, body = PortResponse)))]
pub(super) async fn expose(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(PortRequest { guest, host }): Json<PortRequest>,
) -> Result<(StatusCode, axum::Json<PortResponse>), ApiError> {
    let guest = guest.try_into();
    let guest = guest.map_err(|_| ApiError::invalid("`guest` must be between 1 and 65535"))?;
    let mapping = PortMapping { host, guest };
    let url = service.expose_port(&owner, &id, mapping).await?;
    Ok((StatusCode::CREATED, axum::Json(PortResponse { url })))
}

/// Stream the events of a sandbox
#[utoipa::path(get, path = "/v1/sandboxes/{id}/events", params(("id" = String, Path), AfterQuery), responses(
    (status = 200, content_type = "text/event-stream", body = EventResponse)))]
pub(super) async fn events(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<AfterQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = query.event_id(&headers)?;
    Ok(match service.find_sandbox(&owner, &id)? {
        SandboxLookup::Living(sandbox) => {
            event_stream(sandbox.subscribe(after), service.quota(&owner))
        }
        SandboxLookup::Ended(sandbox) => archived_stream(after, "ended", &sandbox),
    })
}

/// Whose sandboxes to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OwnerQuery {
    /// Only those of the keys with this name or id; `local` for the local user.
    key: Option<String>,
}

/// List the sandboxes of all owners that have not ended, the oldest first
#[utoipa::path(get, path = "/v1/operator/sandboxes", params(OwnerQuery), responses((status = 200, body = OwnedSandboxListResponse)))]
pub(super) async fn list_all(
    State(service): State<Service>,
    _: Operator,
    Query(query): Query<OwnerQuery>,
) -> Result<axum::Json<OwnedSandboxListResponse>, ApiError> {
    let sandboxes = service.list_all_sandboxes(query.key.as_deref())?;
    Ok(axum::Json(OwnedSandboxListResponse { sandboxes }))
}

/// End a sandbox of any owner
#[utoipa::path(delete, path = "/v1/operator/sandboxes/{id}", params(("id" = String, Path)), responses((status = 200, body = SandboxResponse)))]
pub(super) async fn end_any(
    State(service): State<Service>,
    _: Operator,
    Path(id): Path,
) -> Result<axum::Json<SandboxResponse>, ApiError> {
    Ok(axum::Json(service.end_any_sandbox(&id).await?))
}

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use fumehood_engine::{Language, PortMapping};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Caller, Json, Path, Query};
use super::runs::limit;
use super::sse::{After, EventView, follow, over};
use crate::api::requests::{ForkBody, PackagesBody, PortBody, SandboxBody, TimesBody};
use crate::api::responses::{
    CheckpointView, CheckpointsView, InstalledView, ProcessesView, SandboxState, SandboxView,
    SandboxesView, UrlView,
};
use crate::error::{ApiError, Kind};
use crate::service::Service;
use crate::storage::records::Filter;

/// Which sandboxes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SandboxesQuery {
    /// Those in this state.
    #[param(inline)]
    state: Option<SandboxState>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Those that were started before the one of this id.
    before: Option<String>,
}

/// Sandboxes, the newest first
#[utoipa::path(get, path = "/v1/sandboxes", params(SandboxesQuery), responses((status = 200, body = SandboxesView)))]
pub(super) async fn list(
    State(service): State<Service>,
    Caller(owner): Caller,
    Query(query): Query<SandboxesQuery>,
) -> Result<axum::Json<SandboxesView>, ApiError> {
    let filter = Filter {
        before: query.before,
        limit: limit(query.limit)?,
        ..Filter::default()
    };
    let sandboxes = service.list_sandboxes(&owner, query.state, filter)?;
    Ok(axum::Json(SandboxesView { sandboxes }))
}

/// Starts a sandbox
#[utoipa::path(post, path = "/v1/sandboxes", request_body = SandboxBody, responses((status = 201, body = SandboxView)))]
pub(super) async fn create(
    State(service): State<Service>,
    Caller(owner): Caller,
    Json(body): Json<SandboxBody>,
) -> Result<(StatusCode, axum::Json<SandboxView>), ApiError> {
    let kept = service.create_sandbox(&owner, &body).await?;
    Ok((StatusCode::CREATED, axum::Json(kept.view())))
}

/// A sandbox, or what became of it
#[utoipa::path(get, path = "/v1/sandboxes/{id}", params(("id" = String, Path)), responses((status = 200, body = SandboxView)))]
pub(super) async fn get(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<SandboxView>, ApiError> {
    Ok(axum::Json(service.find_sandbox(&owner, &id)?))
}

/// Gives a sandbox more time or less
#[utoipa::path(patch, path = "/v1/sandboxes/{id}", params(("id" = String, Path)), request_body = TimesBody, responses((status = 200, body = SandboxView)))]
pub(super) async fn times(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(body): Json<TimesBody>,
) -> Result<axum::Json<SandboxView>, ApiError> {
    Ok(axum::Json(service.set_times(&owner, &id, &body)?))
}

/// Ends a sandbox, with all that runs in it
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", params(("id" = String, Path)), responses((status = 200, body = SandboxView)))]
pub(super) async fn end(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<SandboxView>, ApiError> {
    Ok(axum::Json(service.end_sandbox(&owner, &id).await?))
}

/// Starts sandboxes that go on from the state of one
#[utoipa::path(post, path = "/v1/sandboxes/{id}/fork", params(("id" = String, Path)), request_body = ForkBody, responses((status = 201, body = SandboxesView)))]
pub(super) async fn fork(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(body): Json<ForkBody>,
) -> Result<(StatusCode, axum::Json<SandboxesView>), ApiError> {
    let children = service.fork(&owner, &id, body.count).await?;
    let sandboxes = children.iter().map(|kept| kept.view()).collect();
    Ok((StatusCode::CREATED, axum::Json(SandboxesView { sandboxes })))
}

/// Saves a sandbox's state
#[utoipa::path(post, path = "/v1/sandboxes/{id}/checkpoints", params(("id" = String, Path)), responses((status = 201, body = CheckpointView)))]
pub(super) async fn save(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<(StatusCode, axum::Json<CheckpointView>), ApiError> {
    Ok((
        StatusCode::CREATED,
        axum::Json(service.checkpoint(&owner, &id).await?),
    ))
}

/// Saved states, the newest first
#[utoipa::path(get, path = "/v1/checkpoints", responses((status = 200, body = CheckpointsView)))]
pub(super) async fn saved(
    State(service): State<Service>,
    Caller(owner): Caller,
) -> axum::Json<CheckpointsView> {
    let checkpoints = service.list_checkpoints(&owner);
    axum::Json(CheckpointsView { checkpoints })
}

/// Removes a saved state
#[utoipa::path(delete, path = "/v1/checkpoints/{id}", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn forget(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<StatusCode, ApiError> {
    service.remove_checkpoint(&owner, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Programs that run in a sandbox
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes", params(("id" = String, Path)), responses((status = 200, body = ProcessesView)))]
pub(super) async fn processes(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<ProcessesView>, ApiError> {
    let kept = service.sandbox(&owner, &id)?;
    let found = kept
        .handle()
        .processes()
        .await
        .map_err(|e| kept.explain(e))?;
    let processes = found
        .iter()
        .filter_map(|one| serde_json::to_value(one).ok())
        .collect();
    Ok(axum::Json(ProcessesView { processes }))
}

/// Closes a context: its interpreter ends
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/contexts/{name}", params(("id" = String, Path), ("name" = String, Path)), responses((status = 204)))]
pub(super) async fn close_context(
    State(service): State<Service>,
    Caller(owner): Caller,
    axum::extract::Path((id, name)): axum::extract::Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let kept = service.sandbox(&owner, &id)?;
    let context = kept.handle().context(name, Language::Python);
    context.close().await.map_err(|e| kept.explain(e))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Installs packages in a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/packages", params(("id" = String, Path)), request_body = PackagesBody, responses((status = 200, body = InstalledView)))]
pub(super) async fn install(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(body): Json<PackagesBody>,
) -> Result<axum::Json<InstalledView>, ApiError> {
    let installed = service
        .install(&owner, &id, body.language.into(), &body.packages)
        .await?;
    Ok(axum::Json(InstalledView { installed }))
}

/// Leads a port of this host's loopback interface to one of a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/ports", params(("id" = String, Path)), request_body = PortBody, responses((status = 201, body = UrlView)))]
pub(super) async fn expose(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(PortBody { guest, host }): Json<PortBody>,
) -> Result<(StatusCode, axum::Json<UrlView>), ApiError> {
    let guest = guest.try_into();
    let guest = guest.map_err(|_| ApiError::invalid("`guest`: 1 to 65535 are allowed"))?;
    let url = service.expose(&owner, &id, PortMapping { host, guest })?;
    Ok((StatusCode::CREATED, axum::Json(UrlView { url })))
}

/// Follows what goes on in a sandbox
#[utoipa::path(get, path = "/v1/sandboxes/{id}/events", params(("id" = String, Path), After), responses(
    (status = 200, content_type = "text/event-stream", body = EventView)))]
pub(super) async fn events(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(after): Query<After>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = after.number(&headers)?;
    match service.sandbox(&owner, &id) {
        Ok(kept) => Ok(follow(kept.follow(after))),
        Err(error) if error.kind == Kind::Lost => {
            let view = service.find_sandbox(&owner, &id)?;
            Ok(over(
                after,
                "ended",
                serde_json::to_string(&view).unwrap_or_default(),
            ))
        }
        Err(error) => Err(error),
    }
}

//! Routes of runs.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Caller, Json, MAX_BODY_BYTES, Path, Query, RunJson, large_json, read_body};
use super::negotiation::ResponseFormat;
use super::sse::{AfterQuery, EventResponse, archived_stream, event_stream};
use crate::api::requests::{
    OneShotRunRequest, ProcessRequest, PtySize, SandboxRunRequest, SignalRequest,
};
use crate::api::responses::{RunListResponse, RunResponse, RunState};
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::service::{MAX_LIST_ITEMS, Service};
use crate::state::memory_budget::{Charge, Quota};
use crate::state::run_task::RunTask;
use crate::state::runs::RunLookup;
use crate::storage::idempotency::IdempotencyKey;
use crate::storage::records::Filter;

/// The default length of a list.
const DEFAULT_LIST_ITEMS: u32 = 100;

/// How long to wait for an early failure before an event stream starts. Most come at once, and are better reported by a
/// status than by an event.
const EARLY_FAILURE_WINDOW: Duration = Duration::from_millis(20);

/// Which runs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// Only runs in this state.
    #[param(inline)]
    state: Option<RunState>,
    /// Only runs in the sandbox with this id or name.
    sandbox: Option<String>,
    /// The maximum number of runs; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only runs that were started before the one with this id.
    before: Option<String>,
}

/// Returns the length of a list, if it is allowed.
pub(super) fn checked_limit(requested: Option<u32>) -> Result<u32, ApiError> {
    let limit = requested.unwrap_or(DEFAULT_LIST_ITEMS);
    if !(1..=MAX_LIST_ITEMS).contains(&limit) {
        let message = format!("`limit` must be between 1 and {MAX_LIST_ITEMS}");
        return Err(ApiError::invalid(message));
    }
    Ok(limit)
}

/// List runs, the newest first, without outputs
#[utoipa::path(get, path = "/v1/runs", params(RunsQuery), responses((status = 200, body = RunListResponse)))]
pub(super) async fn list(
    State(service): State<Service>,
    Caller(owner): Caller,
    Query(query): Query<RunsQuery>,
) -> Result<Response, ApiError> {
    let filter = Filter {
        is_over: None,
        sandbox: query.sandbox,
        name: None,
        before: query.before,
        limit: checked_limit(query.limit)?,
    };

    let list = {
        let service = service.clone();
        move || {
            let runs = service.list_runs(&owner, query.state, filter)?;
            Ok(RunListResponse { runs })
        }
    };
    large_json(&service, list).await
}

/// Run code in a fresh VM
#[utoipa::path(post, path = "/v1/runs", request_body = OneShotRunRequest, responses(
    (status = 200, description = "Run finished", content((RunResponse = "application/json"), (EventResponse = "text/event-stream"))),
    (status = 202, description = "Accepted; the run continues in the background (`detach`)", body = RunResponse)))]
pub(super) async fn create(
    State(service): State<Service>,
    Caller(owner): Caller,
    key: Option<Extension<IdempotencyKey>>,
    headers: HeaderMap,
    RunJson(request, charge): RunJson<OneShotRunRequest>,
) -> Result<Response, ApiError> {
    let format = ResponseFormat::from_headers(&headers)?;
    let (detach, key) = (request.detach, key.map(|Extension(key)| key));
    let run = service.run(&owner, request, key).await?;
    hold_request(&run, charge);
    respond_with_run(run, format, detach, service.quota(&owner)).await
}

/// Run code in a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/runs", params(("id" = String, Path)), request_body = SandboxRunRequest, responses(
    (status = 200, description = "Run finished", content((RunResponse = "application/json"), (EventResponse = "text/event-stream"))),
    (status = 202, description = "Accepted; the run continues in the background (`detach`)", body = RunResponse)))]
pub(super) async fn create_in_sandbox(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    key: Option<Extension<IdempotencyKey>>,
    headers: HeaderMap,
    RunJson(request, charge): RunJson<SandboxRunRequest>,
) -> Result<Response, ApiError> {
    let format = ResponseFormat::from_headers(&headers)?;
    let (detach, key) = (request.detach, key.map(|Extension(key)| key));
    let run = service.run_in_sandbox(&owner, &id, request, key).await?;
    hold_request(&run, charge);
    respond_with_run(run, format, detach, service.quota(&owner)).await
}

/// Start a program in a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes", params(("id" = String, Path)), request_body = ProcessRequest, responses(
    (status = 200, description = "Run finished", content((RunResponse = "application/json"), (EventResponse = "text/event-stream"))),
    (status = 202, description = "Accepted; the run continues in the background (`detach`)", body = RunResponse)))]
pub(super) async fn spawn(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    key: Option<Extension<IdempotencyKey>>,
    headers: HeaderMap,
    RunJson(request, charge): RunJson<ProcessRequest>,
) -> Result<Response, ApiError> {
    let format = ResponseFormat::from_headers(&headers)?;
    let (detach, key) = (request.detach, key.map(|Extension(key)| key));
    let run = service.spawn_in_sandbox(&owner, &id, request, key).await?;
    hold_request(&run, charge);
    respond_with_run(run, format, detach, service.quota(&owner)).await
}

/// Counts the body of a request until its run has ended.
fn hold_request(run: &RunLookup, charge: Option<Charge>) {
    if let (RunLookup::Active(task), Some(charge)) = (run, charge) {
        task.hold_request(charge);
    }
}

async fn respond_with_run(
    run: RunLookup,
    format: ResponseFormat,
    detach: bool,
    quota: Quota,
) -> Result<Response, ApiError> {
    let task = match (run, format) {
        (RunLookup::Active(task), _) => task,
        (RunLookup::Archived(run), ResponseFormat::Events) => return Ok(stream_record(0, &run)),
        (RunLookup::Archived(run), ResponseFormat::Json) => {
            return match run.failure() {
                Some(error) => Err(error),
                None => Ok(axum::Json(&run).into_response()),
            };
        }
    };

    match format {
        ResponseFormat::Events => {
            // Subscribe first, so that the run is not cancelled as an orphan.
            let subscriber = task.subscribe(0);
            let started = task.wait_until_started();
            let _ = tokio::time::timeout(EARLY_FAILURE_WINDOW, started).await;

            match task.failure() {
                Some(error) => Err(error),
                None => Ok(event_stream(subscriber, quota)),
            }
        }
        ResponseFormat::Json if detach => {
            Ok((StatusCode::ACCEPTED, run_response(&task)).into_response())
        }
        ResponseFormat::Json => {
            task.wait().await;
            match task.failure() {
                Some(error) => Err(error),
                None => Ok(run_response(&task)),
            }
        }
    }
}

/// Returns a run with its output as JSON. The body is written as fast as the client takes it.
fn run_response(task: &RunTask) -> Response {
    let body = Body::from_stream(stream::iter(task.write_response()));
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn stream_record(after: u64, run: &RunResponse) -> Response {
    match &run.error {
        Some(error) => archived_stream(after, "failed", error),
        None => archived_stream(after, "ended", run),
    }
}

/// Get a run, with its output while that is kept
#[utoipa::path(get, path = "/v1/runs/{id}", params(("id" = String, Path)), responses((status = 200, body = RunResponse)))]
pub(super) async fn get(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<Response, ApiError> {
    Ok(match service.find_run(&owner, &id)? {
        RunLookup::Active(task) => run_response(&task),
        RunLookup::Archived(run) => axum::Json(*run).into_response(),
    })
}

/// Stream the events of a run
#[utoipa::path(get, path = "/v1/runs/{id}/events", params(("id" = String, Path), AfterQuery), responses(
    (status = 200, content_type = "text/event-stream", body = EventResponse)))]
pub(super) async fn events(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<AfterQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = query.event_id(&headers)?;
    Ok(match service.find_run(&owner, &id)? {
        RunLookup::Active(task) => event_stream(task.subscribe(after), service.quota(&owner)),
        RunLookup::Archived(run) => stream_record(after, &run),
    })
}

/// Returns a run that has not ended.
fn find_active(service: &Service, owner: &Owner, id: &str) -> Result<Arc<RunTask>, ApiError> {
    match service.find_run(owner, id)? {
        RunLookup::Active(task) if !task.state().is_over() => Ok(task),
        _ => {
            let message = format!("run {id} has ended");
            Err(ApiError::new(ApiErrorKind::Conflict, message))
        }
    }
}

/// What to do with a standard input after a write.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StdinQuery {
    /// Whether to close the input after these bytes.
    #[serde(default)]
    #[param(default = false)]
    close: bool,
}

/// Write raw bytes to the standard input of a run
#[utoipa::path(post, path = "/v1/runs/{id}/stdin", params(("id" = String, Path), StdinQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 204)))]
pub(super) async fn stdin(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<StdinQuery>,
    request: axum::extract::Request,
) -> Result<StatusCode, ApiError> {
    let task = find_active(&service, &owner, &id)?;
    let quota = service.quota(&owner);
    let bytes = read_body(request.into_body(), MAX_BODY_BYTES, Some(&quota)).await?;
    service.write_stdin(&task, bytes, query.close).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send a signal to the program of a run
#[utoipa::path(post, path = "/v1/runs/{id}/signal", params(("id" = String, Path)), request_body = SignalRequest, responses((status = 204)))]
pub(super) async fn signal(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(request): Json<SignalRequest>,
) -> Result<StatusCode, ApiError> {
    let signal = request.signal.number()?;
    find_active(&service, &owner, &id)?.signal(signal)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Resize the terminal of a program
#[utoipa::path(post, path = "/v1/runs/{id}/resize", params(("id" = String, Path)), request_body = PtySize, responses((status = 204)))]
pub(super) async fn resize(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(PtySize { rows, cols }): Json<PtySize>,
) -> Result<StatusCode, ApiError> {
    if rows == 0 || cols == 0 {
        let message = "`rows` and `cols` must be between 1 and 65535";
        return Err(ApiError::invalid(message));
    }
    find_active(&service, &owner, &id)?.resize(rows, cols);
    Ok(StatusCode::NO_CONTENT)
}

/// Detach a run: it continues when no client is connected to it
#[utoipa::path(post, path = "/v1/runs/{id}/detach", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn detach(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<StatusCode, ApiError> {
    if let RunLookup::Active(task) = service.find_run(&owner, &id)? {
        task.detach();
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Cancel a run with SIGINT, then SIGTERM, then SIGKILL
#[utoipa::path(post, path = "/v1/runs/{id}/cancel", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn cancel(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<StatusCode, ApiError> {
    if let RunLookup::Active(task) = service.find_run(&owner, &id)? {
        task.cancel();
    }
    Ok(StatusCode::NO_CONTENT)
}

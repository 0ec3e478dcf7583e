use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;

use super::BODY_BYTES;
use super::extract::{Caller, Json, Path, Query, whole};
use super::negotiation::Answer;
use super::sse::{After, EventView, follow, over};
use crate::api::requests::{ProcessBody, PtyBody, RunBody, SignalBody};
use crate::api::responses::{RunState, RunView, RunsView};
use crate::error::{ApiError, Kind};
use crate::service::Service;
use crate::service::runs::LIST;
use crate::state::run_task::Job;
use crate::state::runs::Found;
use crate::storage::idempotency::Once;
use crate::storage::records::Filter;

/// Items of a list unless it is said.
const LISTED: u32 = 100;

/// How long to wait for a refusal before events are begun: most come at once, and are better as a status.
const REFUSAL: Duration = Duration::from_millis(20);

/// Which runs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// Those in this state.
    #[param(inline)]
    state: Option<RunState>,
    /// Those in this sandbox.
    sandbox: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Those that were begun before the one of this id.
    before: Option<String>,
}

/// At most so many, when that is allowed.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, ApiError> {
    let limit = asked.unwrap_or(LISTED);
    if !(1..=LIST).contains(&limit) {
        return Err(ApiError::invalid(format!(
            "`limit`: 1 to {LIST} are allowed"
        )));
    }
    Ok(limit)
}

/// Runs, the newest first, without outputs
#[utoipa::path(get, path = "/v1/runs", params(RunsQuery), responses((status = 200, body = RunsView)))]
pub(super) async fn list(
    State(service): State<Service>,
    Caller(owner): Caller,
    Query(query): Query<RunsQuery>,
) -> Result<axum::Json<RunsView>, ApiError> {
    let filter = Filter {
        is_over: None,
        sandbox: query.sandbox,
        before: query.before,
        limit: limit(query.limit)?,
    };
    let runs = service.list_runs(&owner, query.state, filter)?;
    Ok(axum::Json(RunsView { runs }))
}

/// Runs code in a fresh VM of its own
#[utoipa::path(post, path = "/v1/runs", request_body = RunBody, responses(
    (status = 200, description = "It has ended", content((RunView = "application/json"), (EventView = "text/event-stream"))),
    (status = 202, description = "It goes on (`detach`)", body = RunView)))]
pub(super) async fn create(
    State(service): State<Service>,
    Caller(owner): Caller,
    once: Option<Extension<Once>>,
    headers: HeaderMap,
    Json(body): Json<RunBody>,
) -> Result<Response, ApiError> {
    let answer = Answer::asked(&headers)?;
    let once = once.map(|Extension(once)| once);
    let found = service.run_once(&owner, &body, once).await?;
    answer_run(found, answer, body.detach).await
}

/// Runs code in a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/runs", params(("id" = String, Path)), request_body = RunBody, responses(
    (status = 200, description = "It has ended", content((RunView = "application/json"), (EventView = "text/event-stream"))),
    (status = 202, description = "It goes on (`detach`)", body = RunView)))]
pub(super) async fn create_within(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    once: Option<Extension<Once>>,
    headers: HeaderMap,
    Json(body): Json<RunBody>,
) -> Result<Response, ApiError> {
    let answer = Answer::asked(&headers)?;
    service.find_sandbox(&owner, &id)?;
    let once = once.map(|Extension(once)| once);
    let found = service.run_in_once(&owner, &id, &body, once).await?;
    answer_run(found, answer, body.detach).await
}

/// Starts a program in a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes", params(("id" = String, Path)), request_body = ProcessBody, responses(
    (status = 200, description = "It has ended", content((RunView = "application/json"), (EventView = "text/event-stream"))),
    (status = 202, description = "It goes on (`detach`)", body = RunView)))]
pub(super) async fn spawn(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    once: Option<Extension<Once>>,
    headers: HeaderMap,
    Json(body): Json<ProcessBody>,
) -> Result<Response, ApiError> {
    let answer = Answer::asked(&headers)?;
    service.find_sandbox(&owner, &id)?;
    let once = once.map(|Extension(once)| once);
    let found = service.spawn_in_once(&owner, &id, &body, once).await?;
    answer_run(found, answer, body.detach).await
}

async fn answer_run(found: Found, answer: Answer, detach: bool) -> Result<Response, ApiError> {
    let job = match found {
        Found::Live(job) => job,
        Found::Past(view) => {
            return match answer {
                Answer::Json => view
                    .failure()
                    .map_or_else(|| Ok(axum::Json(&view).into_response()), Err),
                Answer::Events => Ok(past(0, &view)),
            };
        }
    };
    match answer {
        Answer::Events => {
            let follower = job.follow(0);
            let _ = tokio::time::timeout(REFUSAL, job.begun()).await;
            match job.failure() {
                Some(error) => Err(error),
                None => Ok(follow(follower)),
            }
        }
        Answer::Json if detach => {
            Ok((StatusCode::ACCEPTED, axum::Json(job.view(true))).into_response())
        }
        Answer::Json => {
            job.wait().await;
            match job.failure() {
                Some(error) => Err(error),
                None => Ok(axum::Json(job.view(true)).into_response()),
            }
        }
    }
}

fn past(after: u64, view: &RunView) -> Response {
    match &view.error {
        Some(error) => over(
            after,
            "failed",
            serde_json::to_string(error).unwrap_or_default(),
        ),
        None => over(
            after,
            "ended",
            serde_json::to_string(view).unwrap_or_default(),
        ),
    }
}

/// A run, with its output while that is kept
#[utoipa::path(get, path = "/v1/runs/{id}", params(("id" = String, Path)), responses((status = 200, body = RunView)))]
pub(super) async fn get(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<axum::Json<RunView>, ApiError> {
    Ok(axum::Json(match service.find_run(&owner, &id)? {
        Found::Live(job) => job.view(true),
        Found::Past(view) => *view,
    }))
}

/// Follows a run, from its beginning or after an event
#[utoipa::path(get, path = "/v1/runs/{id}/events", params(("id" = String, Path), After), responses(
    (status = 200, content_type = "text/event-stream", body = EventView)))]
pub(super) async fn events(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(after): Query<After>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = after.number(&headers)?;
    Ok(match service.find_run(&owner, &id)? {
        Found::Live(job) => follow(job.follow(after)),
        Found::Past(view) => past(after, &view),
    })
}

/// A run that can still be spoken with.
fn live(service: &Service, owner: &crate::Owner, id: &str) -> Result<Arc<Job>, ApiError> {
    match service.find_run(owner, id)? {
        Found::Live(job) if !job.state().is_over() => Ok(job),
        _ => Err(ApiError::new(
            Kind::Conflict,
            format!("the run {id} has ended"),
        )),
    }
}

/// What is to be done with an input.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StdinQuery {
    /// Whether that is all.
    #[serde(default)]
    #[param(default = false)]
    close: bool,
}

/// Writes raw bytes to a run's input
#[utoipa::path(post, path = "/v1/runs/{id}/stdin", params(("id" = String, Path), StdinQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 204)))]
pub(super) async fn stdin(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<StdinQuery>,
    request: axum::extract::Request,
) -> Result<StatusCode, ApiError> {
    let job = live(&service, &owner, &id)?;
    let bytes: Bytes = whole(request.into_body(), BODY_BYTES).await?;
    service.write_stdin(&job, bytes, query.close).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a signal to a run's program
#[utoipa::path(post, path = "/v1/runs/{id}/signal", params(("id" = String, Path)), request_body = SignalBody, responses((status = 204)))]
pub(super) async fn signal(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(body): Json<SignalBody>,
) -> Result<StatusCode, ApiError> {
    let signal = body.signal.number()?;
    live(&service, &owner, &id)?.signal(signal)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a program's terminal another size
#[utoipa::path(post, path = "/v1/runs/{id}/resize", params(("id" = String, Path)), request_body = PtyBody, responses((status = 204)))]
pub(super) async fn resize(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(PtyBody { rows, cols }): Json<PtyBody>,
) -> Result<StatusCode, ApiError> {
    if rows == 0 || cols == 0 {
        return Err(ApiError::invalid(
            "`rows` and `cols`: 1 to 65535 are allowed",
        ));
    }
    live(&service, &owner, &id)?.resize(rows, cols);
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a run go on when nobody follows it, as if it had been begun so
#[utoipa::path(post, path = "/v1/runs/{id}/detach", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn detach(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<StatusCode, ApiError> {
    if let Found::Live(job) = service.find_run(&owner, &id)? {
        job.detach();
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a run: SIGINT, SIGTERM, SIGKILL
#[utoipa::path(post, path = "/v1/runs/{id}/cancel", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn cancel(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
) -> Result<StatusCode, ApiError> {
    if let Found::Live(job) = service.find_run(&owner, &id)? {
        job.cancel();
    }
    Ok(StatusCode::NO_CONTENT)
}

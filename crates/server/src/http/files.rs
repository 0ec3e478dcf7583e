use axum::extract::State;
use axum::http::StatusCode;
use fumehood_engine::FileInfo;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Caller, Json, Path, Query};
use crate::api::requests::{DirectoryBody, MoveBody};
use crate::api::responses::{EntriesView, FileView};
use crate::api::timestamp::written;
use crate::error::ApiError;
use crate::service::Service;

/// Levels of a listing.
const DEPTH: u32 = 64;

impl From<FileInfo> for FileView {
    fn from(info: FileInfo) -> Self {
        let name = info
            .path
            .rsplit('/')
            .find(|part| !part.is_empty())
            .unwrap_or("/")
            .to_owned();
        Self {
            name,
            kind: serde_json::to_value(info.kind).unwrap_or_default(),
            size: info.size,
            mode: info.mode,
            user: info.user,
            modified: Timestamp::from_microsecond(info.modified_us)
                .ok()
                .map(written),
            target: info.target,
            path: info.path,
        }
    }
}

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PathQuery {
    /// Absolute, or below the user's home.
    #[param(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub(super) path: String,
}

/// What is at a path
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/stat", params(("id" = String, Path), PathQuery), responses((status = 200, body = FileView)))]
pub(super) async fn stat(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<PathQuery>,
) -> Result<axum::Json<FileView>, ApiError> {
    let kept = service.sandbox(&owner, &id)?;
    let found = kept.handle().files().stat(&query.path).await;
    Ok(axum::Json(found.map_err(|e| kept.explain(e))?.into()))
}

/// Which directory.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Absolute, or below the user's home.
    #[param(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    path: String,
    /// How many levels.
    #[param(minimum = 1, maximum = 64)]
    depth: Option<u32>,
}

/// What is in a directory
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/list", params(("id" = String, Path), ListQuery), responses((status = 200, body = EntriesView)))]
pub(super) async fn list(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<EntriesView>, ApiError> {
    let depth = query.depth.unwrap_or(1);
    if !(1..=DEPTH).contains(&depth) {
        return Err(ApiError::invalid(format!(
            "`depth`: 1 to {DEPTH} are allowed"
        )));
    }
    let kept = service.sandbox(&owner, &id)?;
    let found = kept
        .handle()
        .files()
        .list_recursive(&query.path, depth)
        .await;
    let entries = found.map_err(|e| kept.explain(e))?;
    let entries = entries.into_iter().map(FileView::from).collect();
    Ok(axum::Json(EntriesView { entries }))
}

/// Makes a directory, and those on the way to it
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/directories", params(("id" = String, Path)), request_body = DirectoryBody, responses((status = 204)))]
pub(super) async fn make_dir(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(body): Json<DirectoryBody>,
) -> Result<StatusCode, ApiError> {
    let kept = service.sandbox(&owner, &id)?;
    let made = kept.handle().files().make_dir(&body.path).await;
    made.map_err(|e| kept.explain(e))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a file or a directory another name
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/move", params(("id" = String, Path)), request_body = MoveBody, responses((status = 204)))]
pub(super) async fn rename(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(MoveBody { from, to, replace }): Json<MoveBody>,
) -> Result<StatusCode, ApiError> {
    let kept = service.sandbox(&owner, &id)?;
    let files = kept.handle().files();
    let moved = match replace {
        true => files.replace(&from, &to).await,
        false => files.rename(&from, &to).await,
    };
    moved.map_err(|e| kept.explain(e))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which file or directory.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Absolute, or below the user's home.
    #[param(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    path: String,
    /// Whether a directory goes with all that is in it.
    #[serde(default)]
    #[param(default = false)]
    recursive: bool,
}

/// Removes a file or a directory
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files", params(("id" = String, Path), RemoveQuery), responses((status = 204)))]
pub(super) async fn remove(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, ApiError> {
    let kept = service.sandbox(&owner, &id)?;
    let files = kept.handle().files();
    let removed = match query.recursive {
        true => files.remove_all(&query.path).await,
        false => files.remove(&query.path).await,
    };
    removed.map_err(|e| kept.explain(e))?;
    Ok(StatusCode::NO_CONTENT)
}

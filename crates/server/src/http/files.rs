//! Routes of files and directories, without their contents.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use fumehood_engine::FileInfo;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Caller, Json, Path, Query, large_json};
use crate::api::requests::{DirectoryRequest, MoveRequest};
use crate::api::responses::{FileListResponse, FileResponse};
use crate::api::timestamp::format_timestamp;
use crate::error::ApiError;
use crate::service::Service;

/// The charge for a listing while it is collected, in bytes: 10,000 entries with long paths.
const LISTING_BYTES: usize = 16 * 1024 * 1024;

/// The depth of a listing, at most.
const MAX_DEPTH: u32 = 64;

impl From<FileInfo> for FileResponse {
    fn from(info: FileInfo) -> Self {
        let mut components = info.path.rsplit('/');
        let name = components.find(|part| !part.is_empty()).unwrap_or("/");
        let modified = Timestamp::from_microsecond(info.modified_us);

        Self {
            name: name.to_owned(),
            kind: serde_json::to_value(info.kind).unwrap_or_default(),
            size: info.size,
            mode: info.mode,
            user: info.user,
            modified: modified.ok().map(format_timestamp),
            target: info.target,
            path: info.path,
        }
    }
}

/// Which file or directory.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PathQuery {
    /// The path: absolute, or relative to the home directory.
    #[param(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub(super) path: String,
}

/// Get the metadata of a file or directory
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/stat", params(("id" = String, Path), PathQuery), responses((status = 200, body = FileResponse)))]
pub(super) async fn stat(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<PathQuery>,
) -> Result<axum::Json<FileResponse>, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let info = sandbox.engine_sandbox().files().stat(&query.path).await;
    let info = info.map_err(|e| sandbox.to_api_error(e))?;
    Ok(axum::Json(info.into()))
}

/// Which directory to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The path: absolute, or relative to the home directory.
    #[param(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    path: String,
    /// How many levels of directories to list; 1 by default.
    #[param(minimum = 1, maximum = 64)]
    depth: Option<u32>,
}

/// List a directory
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/list", params(("id" = String, Path), ListQuery), responses((status = 200, body = FileListResponse)))]
pub(super) async fn list(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    let depth = query.depth.unwrap_or(1);
    if !(1..=MAX_DEPTH).contains(&depth) {
        let message = format!("`depth` must be between 1 and {MAX_DEPTH}");
        return Err(ApiError::invalid(message));
    }

    let sandbox = service.sandbox(&owner, &id).await?;
    let files = sandbox.engine_sandbox().files();
    let _charge = service.quota(&owner).wait_for(LISTING_BYTES).await;
    let entries = files.list_recursive(&query.path, depth).await;
    let entries = entries.map_err(|e| sandbox.to_api_error(e))?;

    let convert = move || {
        let entries = entries.into_iter().map(FileResponse::from).collect();
        Ok(FileListResponse { entries })
    };
    large_json(&service, convert).await
}

/// Create a directory and its missing parents
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/directories", params(("id" = String, Path)), request_body = DirectoryRequest, responses((status = 204)))]
pub(super) async fn make_dir(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(request): Json<DirectoryRequest>,
) -> Result<StatusCode, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let files = sandbox.engine_sandbox().files();
    let created = files.make_dir(&request.path).await;
    created.map_err(|e| sandbox.to_api_error(e))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Move or rename a file or directory
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/move", params(("id" = String, Path)), request_body = MoveRequest, responses((status = 204)))]
pub(super) async fn rename(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Json(MoveRequest { from, to, replace }): Json<MoveRequest>,
) -> Result<StatusCode, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let files = sandbox.engine_sandbox().files();

    let moved = if replace {
        files.replace(&from, &to).await
    } else {
        files.rename(&from, &to).await
    };

    moved.map_err(|e| sandbox.to_api_error(e))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which file or directory to remove.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// The path: absolute, or relative to the home directory.
    #[param(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    path: String,
    /// Whether to remove a directory with its content.
    #[serde(default)]
    #[param(default = false)]
    recursive: bool,
}

/// Remove a file or directory
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files", params(("id" = String, Path), RemoveQuery), responses((status = 204)))]
pub(super) async fn remove(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let files = sandbox.engine_sandbox().files();

    let removed = if query.recursive {
        files.remove_all(&query.path).await
    } else {
        files.remove(&query.path).await
    };

    removed.map_err(|e| sandbox.to_api_error(e))?;
    Ok(StatusCode::NO_CONTENT)
}

//! Contents of files: streamed, in either direction.

use std::io;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use fumehood_engine::{FileInfo, FileKind, FileReader, Files, WriteOptions};
use futures_util::stream;
use serde::Deserialize;
use tokio_util::io::StreamReader;
use utoipa::IntoParams;

use super::CONTENT_BYTES;
use super::extract::{Caller, Path, Query, piece};
use super::files::PathQuery;
use crate::api::responses::FileView;
use crate::error::{ApiError, Kind};
use crate::service::Service;
use crate::state::sandbox_handle::Kept;
use crate::sync::lock;

/// What is read before the head is sent: a file that ends within it has the length that it has, whatever its
/// directory says.
const FIRST_BYTES: usize = 256 * 1024;

/// Links that are followed to learn a file's size.
const LINKS: usize = 8;

/// A file's content
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/content", params(("id" = String, Path), PathQuery), responses(
    (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
    (status = 206, description = "The range that was asked for", content_type = "application/octet-stream", body = Vec<u8>)))]
pub(super) async fn download(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(PathQuery { path }): Query<PathQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let kept = service.sandbox(&owner, &id)?;
    let files = kept.handle().files();
    let size = size(&kept, &files, &path).await?;
    let range = match size {
        Some(size) => Wanted::of(&headers, size),
        None => Wanted::All,
    };
    match (range, size) {
        (Wanted::Nothing, size) => {
            let size = size.unwrap_or(0);
            let message = format!("`Range`: the file has {size} bytes");
            let mut response = ApiError::new(Kind::RangeNotSatisfiable, message).into_response();
            if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                response.headers_mut().insert(CONTENT_RANGE, value);
            }
            Ok(response)
        }
        (Wanted::Part(from, to), size) => {
            let len = to - from + 1;
            let body = content(&kept, files.open_reader(&path, from, Some(len)), Some(len)).await?;
            let range = format!("bytes {from}-{to}/{}", size.unwrap_or(0));
            let mut response = (StatusCode::PARTIAL_CONTENT, body).into_response();
            if let Ok(value) = HeaderValue::from_str(&range) {
                response.headers_mut().insert(CONTENT_RANGE, value);
            }
            Ok(response)
        }
        (Wanted::All, size) => {
            let body = content(
                &kept,
                files.open_reader(&path, 0, size.filter(|size| *size > 0)),
                size,
            )
            .await?;
            Ok(body.into_response())
        }
    }
}

/// The size of a regular file; none: it is something else.
async fn size(kept: &Kept, files: &Files, path: &str) -> Result<Option<u64>, ApiError> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let found = files.stat(&path).await.map_err(|e| kept.explain(e))?;
        match found {
            FileInfo {
                kind: FileKind::File,
                size,
                ..
            } => return Ok(Some(size)),
            FileInfo {
                target: Some(target),
                ..
            } if target.starts_with('/') => path = target,
            FileInfo {
                target: Some(target),
                ..
            } => {
                let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                path = if path.starts_with('/') || !dir.is_empty() {
                    format!("{dir}/{target}")
                } else {
                    target
                };
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// What is wanted of a file.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// The first and the last byte.
    Part(u64, u64),
    /// What it has not.
    Nothing,
}

impl Wanted {
    /// What is no single range of bytes asks for all, as RFC 9110 has it.
    fn of(headers: &HeaderMap, size: u64) -> Self {
        let range = headers
            .get(RANGE)
            .filter(|_| !headers.contains_key(IF_RANGE));
        let range = range.and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
        let Some((from, to)) = range.and_then(|range| range.trim().split_once('-')) else {
            return Self::All;
        };
        match (from.parse::<u64>(), to.parse::<u64>()) {
            (Ok(from), Ok(to)) if from <= to && from < size => Self::Part(from, to.min(size - 1)),
            (Ok(from), Ok(to)) if from <= to => Self::Nothing,
            (Ok(from), Err(_)) if to.is_empty() && from < size => Self::Part(from, size - 1),
            (Ok(_), Err(_)) if to.is_empty() => Self::Nothing,
            (Err(_), Ok(0)) if from.is_empty() => Self::Nothing,
            (Err(_), Ok(_)) if from.is_empty() && size == 0 => Self::Nothing,
            (Err(_), Ok(last)) if from.is_empty() => {
                Self::Part(size.saturating_sub(last), size - 1)
            }
            _ => Self::All,
        }
    }
}

/// A body that is read as fast as it is taken, with its head.
async fn content(
    kept: &Kept,
    reading: Result<FileReader, fumehood_engine::Error>,
    len: Option<u64>,
) -> Result<impl IntoResponse + use<>, ApiError> {
    let mut reading = reading.map_err(|e| kept.explain(e))?;
    let mut first = BytesMut::new();
    let mut is_whole = false;
    while first.len() < FIRST_BYTES && !is_whole {
        match reading.next().await.map_err(|e| kept.explain(e))? {
            Some(bytes) => first.extend_from_slice(&bytes),
            None => is_whole = true,
        }
    }
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    if is_whole {
        return Ok((headers, Body::from(first.freeze())));
    }
    if let Some(len) = len {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
    let rest = stream::unfold(
        (Some(first.freeze()), reading),
        |(first, mut reading)| async move {
            if let Some(first) = first {
                return Some((Ok(first), (None, reading)));
            }
            // The head is out: a body that breaks off is all that can be said.
            let next = reading
                .next()
                .await
                .map_err(|error| io::Error::other(error.to_string()));
            next.transpose().map(|next| (next, (None, reading)))
        },
    );
    Ok((headers, Body::from_stream(rest)))
}

/// How a file is to be written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadQuery {
    /// Absolute, or below the user's home.
    #[param(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    path: String,
    /// Its permissions, in octal: those of the file that it replaces unless given, else 644.
    #[param(pattern = "^[0-7]{1,4}$")]
    mode: Option<String>,
    /// Whether directories that are missing on the way are made.
    #[serde(default)]
    #[param(default = false)]
    parents: bool,
}

/// Writes a file: it is there with all of the body, or as it was
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files/content", params(("id" = String, Path), UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = FileView)))]
pub(super) async fn upload(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<axum::Json<FileView>, ApiError> {
    let kept = service.sandbox(&owner, &id)?;
    let size = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|len| len.to_str().ok()?.parse().ok());
    if size.is_some_and(|size: u64| size > CONTENT_BYTES) {
        return Err(too_large());
    }
    let options = WriteOptions {
        mode: query.mode.as_deref().map(mode).transpose()?,
        parents: query.parents,
        size,
    };
    let wrong = Arc::new(Mutex::new(None));
    let reader = StreamReader::new(Box::pin(bounded(request.into_body(), wrong.clone())));
    let files = kept.handle().files();
    let written = files.upload(&query.path, reader, options).await;
    if let Some(error) = lock(&wrong).take() {
        return Err(error);
    }
    written.map_err(|e| kept.explain(e))?;
    let found = files.stat(&query.path).await.map_err(|e| kept.explain(e))?;
    Ok(axum::Json(found.into()))
}

fn mode(text: &str) -> Result<u32, ApiError> {
    let is_octal =
        (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    mode.ok_or_else(|| ApiError::invalid("`mode`: one to four octal digits are allowed, as in 644"))
}

fn too_large() -> ApiError {
    let message =
        format!("the content has more than {CONTENT_BYTES} bytes, the most that is allowed");
    ApiError::new(Kind::TooLarge, message)
}

/// A body's bytes, as long as they come and are not too many; what went wrong is left in `wrong`.
fn bounded(
    body: Body,
    wrong: Arc<Mutex<Option<ApiError>>>,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::unfold((body, wrong, 0_u64), |(mut body, wrong, came)| async move {
        let next = match piece(&mut body).await {
            Ok(Some(bytes)) if came + bytes.len() as u64 > CONTENT_BYTES => Err(too_large()),
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => return None,
            Err(error) => Err(error),
        };
        let came = came + next.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let next = next.map_err(|error| {
            let said = io::Error::other(error.message.clone());
            *lock(&wrong) = Some(error);
            said
        });
        Some((next, (body, wrong, came)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let of = |range: &str, size| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, range.parse().unwrap());
            Wanted::of(&headers, size)
        };
        assert_eq!(of("bytes=0-0", 10), Wanted::Part(0, 0));
        assert_eq!(of("bytes=2-", 10), Wanted::Part(2, 9));
        assert_eq!(of("bytes=-3", 10), Wanted::Part(7, 9));
        assert_eq!(of("bytes=-30", 10), Wanted::Part(0, 9));
        assert_eq!(of("bytes=5-99", 10), Wanted::Part(5, 9));
        for nothing in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(of(nothing, 10), Wanted::Nothing, "{nothing}");
        }
        assert_eq!(of("bytes=-1", 0), Wanted::Nothing);
        for all in ["bytes=0-1,3-4", "lines=1-2", "bytes=b-a", "bytes=5-2"] {
            assert_eq!(of(all, 10), Wanted::All, "{all}");
        }
    }

    #[test]
    fn modes_at_their_limits() {
        assert_eq!(mode("7777").unwrap(), 0o7777);
        assert_eq!(mode("0").unwrap(), 0);
        for wrong in ["", "8", "+644", "10000", "rw"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }
}

//! Routes of file contents, streamed in both directions.

use std::io;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE, TRAILER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use fumehood_engine::{FileInfo, FileKind, FileReader, Files, SkippedFiles, WriteOptions};
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use utoipa::IntoParams;

use super::extract::{Caller, Path, Query, next_chunk};
use super::files::PathQuery;
use crate::api::responses::FileResponse;
use crate::error::{ApiError, ApiErrorKind};
use crate::service::Service;
use crate::state::sandbox::SandboxHandle;
use crate::sync::lock;

/// The largest file content, in bytes.
pub(super) const MAX_CONTENT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// How much is read before the headers are sent. A file that ends within it is sent with its exact
/// length, even if its metadata is wrong, as in /proc.
const PREFETCH_BYTES: usize = 256 * 1024;

/// The links that are followed to find a file's size, at most.
const MAX_LINKS: usize = 8;

/// Download the content of a file
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/content", params(("id" = String, Path), PathQuery), responses(
    (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
    (status = 206, description = "The requested range", content_type = "application/octet-stream", body = Vec<u8>)))]
pub(super) async fn download(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(PathQuery { path }): Query<PathQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let files = sandbox.engine_sandbox().files();

    // Ranges need a known size; without one, the whole file is sent.
    let size = regular_file_size(&sandbox, &files, &path).await?;
    let Some(size) = size else {
        let reader = files.open_reader(&path, 0, None);
        let content = content_response(&sandbox, reader, None).await?;
        return Ok(content.into_response());
    };

    match RequestedRange::parse(&headers, size) {
        RequestedRange::All => {
            // A size of 0 says nothing about files such as those in /proc.
            let len = Some(size).filter(|size| *size > 0);
            let reader = files.open_reader(&path, 0, len);
            let content = content_response(&sandbox, reader, Some(size)).await?;
            Ok(content.into_response())
        }
        RequestedRange::Part { first, last } => {
            let len = Some(last - first + 1);
            let reader = files.open_reader(&path, first, len);
            let content = content_response(&sandbox, reader, len).await?;
            let response = (StatusCode::PARTIAL_CONTENT, content).into_response();
            Ok(with_content_range(
                response,
                &format!("bytes {first}-{last}/{size}"),
            ))
        }
        RequestedRange::Unsatisfiable => {
            let message = format!("`Range` is outside of the file, which has {size} bytes");
            let error = ApiError::new(ApiErrorKind::RangeNotSatisfiable, message);
            Ok(with_content_range(
                error.into_response(),
                &format!("bytes */{size}"),
            ))
        }
    }
}

fn with_content_range(mut response: Response, range: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(range) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

/// Returns the size of a regular file in bytes, through links, or `None` for anything else.
async fn regular_file_size(
    sandbox: &SandboxHandle,
    files: &Files,
    path: &str,
) -> Result<Option<u64>, ApiError> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let info = files.stat(&path).await;
        let FileInfo {
            kind, size, target, ..
        } = info.map_err(|e| sandbox.to_api_error(e))?;

        if kind == FileKind::File {
            return Ok(Some(size));
        }

        // Resolve the target relative to the directory of the link.
        let Some(target) = target else {
            return Ok(None);
        };

        path = match path.rsplit_once('/') {
            Some((dir, _)) if !target.starts_with('/') => format!("{dir}/{target}"),
            _ => target,
        };
    }

    Ok(None)
}

/// The range of a file that a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum RequestedRange {
    All,
    /// From the first to the last byte, both included.
    Part {
        first: u64,
        last: u64,
    },
    /// The range is outside of the file.
    Unsatisfiable,
}

impl RequestedRange {
    /// Parses the `Range` header for a file of `size` bytes. As RFC 9110 allows, anything but a single range of bytes is
    /// ignored, and so is a range with `If-Range`.
    fn parse(headers: &HeaderMap, size: u64) -> Self {
        let header = headers
            .get(RANGE)
            .filter(|_| !headers.contains_key(IF_RANGE));

        let range = header.and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
        let Some((first, last)) = range.and_then(|range| range.trim().split_once('-')) else {
            return Self::All;
        };

        match (first.parse::<u64>(), last.parse::<u64>()) {
            // FIRST-LAST
            (Ok(first), Ok(last)) if first > last => Self::All,
            (Ok(first), Ok(last)) => Self::within(first, last, size),
            // FIRST-
            (Ok(first), Err(_)) if last.is_empty() => Self::within(first, u64::MAX, size),
            // -LENGTH
            (Err(_), Ok(0)) if first.is_empty() => Self::Unsatisfiable,
            (Err(_), Ok(len)) if first.is_empty() => {
                Self::within(size.saturating_sub(len), u64::MAX, size)
            }
            _ => Self::All,
        }
    }

    fn within(first: u64, last: u64, size: u64) -> Self {
        if first < size {
            let last = last.min(size - 1);
            Self::Part { first, last }
        } else {
            Self::Unsatisfiable
        }
    }
}

/// Returns the headers and the body of a content. The body is read as fast as the client takes it.
async fn content_response(
    sandbox: &SandboxHandle,
    reader: Result<FileReader, fumehood_engine::Error>,
    len: Option<u64>,
) -> Result<impl IntoResponse + use<>, ApiError> {
    let mut reader = reader.map_err(|e| sandbox.to_api_error(e))?;

    // Read ahead: errors are still reported by a status, and the length of a short file is exact.
    let mut prefetched = BytesMut::new();
    let mut is_complete = false;

    while prefetched.len() < PREFETCH_BYTES && !is_complete {
        let chunk = reader.next().await;
        match chunk.map_err(|e| sandbox.to_api_error(e))? {
            Some(bytes) => prefetched.extend_from_slice(&bytes),
            None => is_complete = true,
        }
    }

    let mut headers = HeaderMap::new();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, octets);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

    if is_complete {
        return Ok((headers, Body::from(prefetched.freeze())));
    }

    if let Some(len) = len {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    }

    let chunks = stream::unfold(
        (Some(prefetched.freeze()), reader),
        |(prefetched, mut reader)| async move {
            if let Some(bytes) = prefetched {
                return Some((Ok(bytes), (None, reader)));
            }

            // The headers are sent: an error can only end the body early.
            let next = reader.next().await;
            let next = next.map_err(|error| io::Error::other(error.to_string()));
            next.transpose().map(|chunk| (chunk, (None, reader)))
        },
    );

    Ok((headers, Body::from_stream(chunks)))
}

/// How to write a file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadQuery {
    /// The path: absolute, or relative to the home directory.
    #[param(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    path: String,
    /// The permissions, in octal; by default those of the file that is replaced, or 644.
    #[param(pattern = "^[0-7]{1,4}$")]
    mode: Option<String>,
    /// Whether to create missing parent directories.
    #[serde(default)]
    #[param(default = false)]
    parents: bool,
}

/// Upload the content of a file, atomically
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files/content", params(("id" = String, Path), UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = FileResponse)))]
pub(super) async fn upload(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<axum::Json<FileResponse>, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let size = request.headers().get(CONTENT_LENGTH);
    let size = size.and_then(|len| len.to_str().ok()?.parse().ok());

    if size.is_some_and(|size: u64| size > MAX_CONTENT_BYTES) {
        return Err(too_large());
    }

    let options = WriteOptions {
        mode: query.mode.as_deref().map(parse_mode).transpose()?,
        parents: query.parents,
        size,
    };

    // An error of the body is reported as it is, rather than as the failed write that it causes.
    let body_error = Arc::new(Mutex::new(None));
    let body = bounded_stream(request.into_body(), body_error.clone());
    let reader = StreamReader::new(Box::pin(body));
    let files = sandbox.engine_sandbox().files();
    let written = files.upload(&query.path, reader, options).await;

    if let Some(error) = lock(&body_error).take() {
        return Err(error);
    }

    written.map_err(|e| sandbox.to_api_error(e))?;

    let info = files.stat(&query.path).await;
    let info = info.map_err(|e| sandbox.to_api_error(e))?;

    Ok(axum::Json(info.into()))
}

fn parse_mode(text: &str) -> Result<u32, ApiError> {
    let is_octal =
        (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    mode.ok_or_else(|| ApiError::invalid("`mode` must be one to four octal digits, such as 644"))
}

fn too_large() -> ApiError {
    let message = format!("the content exceeds the limit of {MAX_CONTENT_BYTES} bytes");
    ApiError::new(ApiErrorKind::TooLarge, message)
}

/// Streams the bytes of a body up to the limit. An error ends the stream and is stored in `body_error`.
fn bounded_stream(
    body: Body,
    body_error: Arc<Mutex<Option<ApiError>>>,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::unfold((body, body_error, 0_u64), |state| async move {
        let (mut body, body_error, received) = state;
        let chunk = match next_chunk(&mut body).await {
            Ok(Some(bytes)) if received + bytes.len() as u64 > MAX_CONTENT_BYTES => {
                Err(too_large())
            }
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => return None,
            Err(error) => Err(error),
        };

        let received = received + chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let chunk = chunk.map_err(|error| {
            let message = error.message.clone();
            *lock(&body_error) = Some(error);
            io::Error::other(message)
        });

        Some((chunk, (body, body_error, received)))
    })
}

/// The chunks of an archive in flight: at most 64 KiB each.
const ARCHIVE_CHUNKS: usize = 16;

/// The trailer that ends a complete archive: the number of files that were left out, and the first of them, as JSON.
const SKIPPED_TRAILER: HeaderName = HeaderName::from_static("fumehood-skipped");

/// The length of that trailer, in bytes, at most. Clients accept some 16 KiB of trailers.
const MAX_SKIPPED_BYTES: usize = 8 * 1024;

/// Download a directory with its content, as a tar stream
///
/// The guest writes the stream: a reader must expect any content. After a complete stream, the trailer `fumehood-skipped` has
/// the files that were left out, as JSON in ASCII.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/archive", params(("id" = String, Path), PathQuery), responses(
    (status = 200, content_type = "application/octet-stream", body = Vec<u8>)))]
pub(super) async fn download_archive(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(PathQuery { path }): Query<PathQuery>,
) -> Result<Response, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let files = sandbox.engine_sandbox().files();
    let (sender, mut chunks) = mpsc::channel(ARCHIVE_CHUNKS);
    // Dropping the response drops the receiver, which ends the guest's tar.
    let packing = tokio::spawn(async move { files.pack_dir(&path, sender).await });

    // An error before the first byte is reported by a status.
    let Some(first) = chunks.recv().await else {
        let packed = packing.await.map_err(|e| ApiError::internal(&e))?;
        packed.map_err(|e| sandbox.to_api_error(e))?;
        return Err(ApiError::invalid("the guest's tar has written nothing"));
    };

    let state = Some((Some(first), chunks, packing));
    let frames = stream::unfold(state, |state| async move {
        let (first, mut chunks, packing) = state?;
        let chunk = match first {
            Some(first) => Some(first),
            None => chunks.recv().await,
        };
        if let Some(bytes) = chunk {
            return Some((Ok(Frame::data(bytes)), Some((None, chunks, packing))));
        }

        // The headers are sent: an error can only end the body early.
        let packed = packing.await.map_err(io::Error::other);
        let skipped = packed.and_then(|packed| packed.map_err(|e| io::Error::other(e.to_string())));
        Some((
            skipped.map(|skipped| Frame::trailers(skipped_trailer(skipped))),
            None,
        ))
    });

    let tar = HeaderValue::from_static("application/octet-stream");
    let headers = [
        (CONTENT_TYPE, tar),
        (TRAILER, HeaderValue::from(SKIPPED_TRAILER)),
    ];
    Ok((headers, Body::new(StreamBody::new(frames))).into_response())
}

/// Returns the trailer of an archive. Files are left out until it is short enough.
fn skipped_trailer(mut skipped: SkippedFiles) -> HeaderMap {
    let value = loop {
        let text = serde_json::to_string(&skipped).unwrap_or_default();
        let ascii = ascii_json(&text);
        if ascii.len() <= MAX_SKIPPED_BYTES || skipped.files.is_empty() {
            break ascii;
        }
        skipped.files.truncate(skipped.files.len() / 2);
    };

    let mut trailers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&value) {
        trailers.insert(SKIPPED_TRAILER, value);
    }
    trailers
}

/// Returns a JSON text in which everything but printable ASCII is escaped.
fn ascii_json(text: &str) -> String {
    let mut ascii = String::with_capacity(text.len());
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte @ b' '..=b'~') => ascii.push(char::from(byte)),
            _ => ascii.push_str(&format!("\\u{unit:04x}")),
        }
    }
    ascii
}

/// Upload a directory with its content, as a tar stream
///
/// The directory is created if it does not exist, and files in it are replaced. The guest unpacks the stream.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files/archive", params(("id" = String, Path), PathQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 204)))]
pub(super) async fn upload_archive(
    State(service): State<Service>,
    Caller(owner): Caller,
    Path(id): Path,
    Query(PathQuery { path }): Query<PathQuery>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let sandbox = service.sandbox(&owner, &id).await?;
    let files = sandbox.engine_sandbox().files();
    let (sender, chunks) = mpsc::channel(ARCHIVE_CHUNKS);

    let body_error = Arc::new(Mutex::new(None));
    let body = bounded_stream(request.into_body(), body_error.clone());
    let reading = async move {
        let mut body = Box::pin(body);
        while let Some(Ok(bytes)) = body.next().await {
            // A tar that has ended says why.
            if sender.send(bytes).await.is_err() {
                break;
            }
        }
    };
    let ((), unpacked) = tokio::join!(reading, files.unpack_dir(&path, chunks));

    if let Some(error) = lock(&body_error).take() {
        return Err(error);
    }
    unpacked.map_err(|e| sandbox.to_api_error(e))?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let parse = |range: &str, size| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, range.parse().unwrap());
            RequestedRange::parse(&headers, size)
        };

        let part = |first, last| RequestedRange::Part { first, last };
        assert_eq!(parse("bytes=0-0", 10), part(0, 0));
        assert_eq!(parse("bytes=2-", 10), part(2, 9));
        assert_eq!(parse("bytes=-3", 10), part(7, 9));
        assert_eq!(parse("bytes=-30", 10), part(0, 9));
        assert_eq!(parse("bytes=5-99", 10), part(5, 9));

        for outside in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            let range = parse(outside, 10);
            assert_eq!(range, RequestedRange::Unsatisfiable, "{outside}");
        }

        assert_eq!(parse("bytes=-1", 0), RequestedRange::Unsatisfiable);
        for ignored in ["bytes=0-1,3-4", "lines=1-2", "bytes=b-a", "bytes=5-2"] {
            assert_eq!(parse(ignored, 10), RequestedRange::All, "{ignored}");
        }
    }

    #[test]
    fn the_trailer_of_an_archive_is_short_ascii_json() {
        let file = |path: &str| serde_json::json!({ "path": path, "reason": "a socket" });
        let long = "é\u{fffd}\"".repeat(300);
        let files: Vec<_> = (0..100).map(|_| file(&long)).collect();
        let skipped = serde_json::json!({ "count": 200, "failed": 1, "files": files });
        let skipped: SkippedFiles = serde_json::from_value(skipped).unwrap();

        let trailers = skipped_trailer(skipped);
        let text = trailers[SKIPPED_TRAILER].to_str().unwrap();
        assert!(text.len() <= MAX_SKIPPED_BYTES);
        let parsed: SkippedFiles = serde_json::from_str(text).unwrap();
        assert_eq!((parsed.count, parsed.failed), (200, 1));
        assert_eq!(parsed.files[0].path, long);
    }

    #[test]
    fn modes_at_their_limits() {
        assert_eq!(parse_mode("7777").unwrap(), 0o7777);
        assert_eq!(parse_mode("0").unwrap(), 0);
        for wrong in ["", "8", "+644", "10000", "rw"] {
            assert!(parse_mode(wrong).is_err(), "{wrong}");
        }
    }
}

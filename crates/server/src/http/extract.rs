//! The parts of a request, parsed, with errors that name the field.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::error::{ApiError, ApiErrorKind};
use crate::owner::{Identity, Owner};
use crate::service::Service;
use crate::state::memory_budget::{Charge, Quota, attach};

/// The largest JSON body, and the largest input for a program, in bytes. Code of 2 MiB whose every byte is escaped is
/// larger than any other request, and fits.
pub(super) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// How long a body may pause.
const BODY_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a body that is held in memory may take: the largest one at 28 KiB/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A JSON body of more bytes is parsed on a thread that serves no other request.
const MAX_INLINE_JSON_BYTES: usize = 64 * 1024;

/// The owner that the middleware has authenticated.
pub(super) struct Caller(pub(super) Owner);

impl FromRequestParts<Service> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Service) -> Result<Self, ApiError> {
        let owner = parts.extensions.get::<Owner>().cloned();
        let missing = || ApiError::new(ApiErrorKind::Unauthorized, "missing API key");
        owner.map(Self).ok_or_else(missing)
    }
}

/// A caller that operates the server.
pub(super) struct Operator;

impl FromRequestParts<Service> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Service) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Identity>();
        if caller.is_some_and(|caller| caller.is_operator) {
            return Ok(Self);
        }

        let message = "only an operator may do this: the local user at the Unix socket, or a key that \
                       `fumehood keys create --operator` has created";
        Err(ApiError::new(ApiErrorKind::Forbidden, message))
    }
}

/// A JSON body. An empty body counts as an empty object.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Service> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, service: &Service) -> Result<Self, ApiError> {
        Ok(Self(read_json(request, service).await?.0))
    }
}

/// The JSON body of a run, and its charge: the run holds its code, input and files until it has ended.
pub(super) struct RunJson<T>(pub(super) T, pub(super) Option<Charge>);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Service> for RunJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, service: &Service) -> Result<Self, ApiError> {
        let quota = request.extensions().get::<Quota>().cloned();
        let (value, bytes) = read_json(request, service).await?;
        let quota = quota.filter(|_| bytes > MAX_INLINE_JSON_BYTES);
        let charge = quota.map(|quota| quota.charge(bytes)).transpose()?;
        Ok(Self(value, charge))
    }
}

/// Reads a JSON body, and returns its length, too.
async fn read_json<T>(request: Request, service: &Service) -> Result<(T, usize), ApiError>
where
    T: DeserializeOwned + Send + 'static,
{
    let is_json = is_json(request.headers());
    let quota = request.extensions().get().cloned();
    let mut bytes = read_body(request.into_body(), MAX_BODY_BYTES, quota.as_ref()).await?;
    if bytes.is_empty() {
        bytes = Bytes::from_static(b"{}");
    } else if !is_json {
        let message = "the body must be JSON, with `Content-Type: application/json`";
        return Err(ApiError::new(ApiErrorKind::UnsupportedMediaType, message));
    }

    let len = bytes.len();
    if len <= MAX_INLINE_JSON_BYTES {
        return Ok((parse(&bytes)?, len));
    }

    let parsed = service.do_heavy_work(move || parse(&bytes)).await?;
    Ok((parsed?, len))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let invalid = |path: &str, error: &dyn std::fmt::Display| {
        ApiError::invalid(format!("invalid body: {}{error}", field_prefix(path)))
    };

    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut parser)
        .map_err(|error| invalid(&error.path().to_string(), error.inner()))?;
    parser.end().map_err(|error| invalid("", &error))?;

    Ok(value)
}

/// Returns a JSON response that may be large: collects and writes it on a thread that serves no other request.
pub(super) async fn large_json<T: Serialize>(
    service: &Service,
    collect: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let write = move || {
        let json = serde_json::to_vec(&collect()?);
        json.map_err(|error| ApiError::internal(&error))
    };
    let json = service.do_heavy_work(write).await??;

    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// Whether a body is JSON by its content type, or has none.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let text = content_type.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Returns the field at `path` as the start of a message; nothing for the whole.
fn field_prefix(path: &str) -> String {
    match path {
        "" | "." => String::new(),
        path => format!("`{path}`: "),
    }
}

/// Reads a whole body of at most `max_bytes`. They count for `quota`, from their arrival until the last reference to them is
/// dropped.
///
/// # Errors
/// [`ApiErrorKind::TooLarge`]; [`ApiErrorKind::Busy`] if the quota is used up; [`ApiErrorKind::Timeout`] if the body takes
/// longer than [`BODY_TIMEOUT`]; and those of [`next_chunk`].
pub(super) async fn read_body(
    body: Body,
    max_bytes: usize,
    quota: Option<&Quota>,
) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(BODY_TIMEOUT, read_chunks(body, max_bytes, quota));
    read.await.unwrap_or_else(|_| {
        let seconds = BODY_TIMEOUT.as_secs();
        let message = format!("the body did not arrive within {seconds} s; send it faster");
        Err(ApiError::new(ApiErrorKind::Timeout, message))
    })
}

async fn read_chunks(
    mut body: Body,
    max_bytes: usize,
    quota: Option<&Quota>,
) -> Result<Bytes, ApiError> {
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    let mut charge = quota.map(|quota| quota.charge(0)).transpose()?;

    while let Some(chunk) = next_chunk(&mut body).await? {
        if first.len().max(all.len()) + chunk.len() > max_bytes {
            let message = format!("the body exceeds the limit of {max_bytes} bytes");
            return Err(ApiError::new(ApiErrorKind::TooLarge, message));
        }

        // Most bodies are one chunk, which is not copied. It is a part of the connection's own buffer, or counted already.
        if first.is_empty() && all.is_empty() {
            first = chunk;
            continue;
        }

        let more = std::mem::take(&mut first);
        if let Some(charge) = &mut charge {
            charge.grow(more.len() + chunk.len())?;
        }
        all.extend_from_slice(&more);
        all.extend_from_slice(&chunk);
    }

    Ok(match charge {
        _ if all.is_empty() => first,
        Some(charge) => attach(all.freeze(), &Arc::new(charge)),
        None => all.freeze(),
    })
}

/// Reads the next bytes of a body, and returns `None` at its end.
///
/// # Errors
/// [`ApiErrorKind::Timeout`] if the body pauses for too long; [`ApiErrorKind::Invalid`] if it is incomplete.
pub(super) async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = tokio::time::timeout(BODY_STALL_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_| {
            let seconds = BODY_STALL_TIMEOUT.as_secs();
            let message = format!("no bytes of the body arrived for {seconds} s");
            ApiError::new(ApiErrorKind::Timeout, message)
        })?;

        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                return Err(ApiError::invalid(format!("incomplete body: {error}")));
            }
            Some(Ok(frame)) => {
                // Frames without data are trailers.
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// How much of a body is read after its request was answered, in bytes.
pub(super) const MAX_DRAINED_BYTES: usize = 64 * 1024 * 1024;

/// How long a body is read after its request was answered.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The type of a body that can be read in the background.
pub(super) trait Drainable: HttpBody<Data = Bytes> + Send + Unpin + 'static {}

impl<B: HttpBody<Data = Bytes> + Send + Unpin + 'static> Drainable for B {}

/// A body that is read to its end, within bounds, if the answer does not wait for it. Otherwise the connection would be
/// closed while its client still sends, and many clients would report that instead of the answer.
pub(super) struct RequestBody<B: Drainable> {
    body: Option<B>,
    is_drained: bool,
}

impl<B: Drainable> RequestBody<B> {
    /// Wraps the body of a request.
    pub(super) fn wrap(request: axum::http::Request<B>) -> axum::http::Request<Self> {
        // A client that waits for permission to send a body gets its answer before.
        let is_drained = !request.headers().contains_key(EXPECT);
        request.map(|body| Self {
            body: Some(body),
            is_drained,
        })
    }
}

impl<B: Drainable> Drop for RequestBody<B> {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(rest), true, Ok(runtime)) = (rest, self.is_drained, Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(DRAIN_TIMEOUT, drain(rest)));
        }
    }
}

/// Reads a body and drops its bytes.
async fn drain(mut body: impl Drainable) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes >= MAX_DRAINED_BYTES {
            return;
        }
    }
}

impl<B: Drainable> HttpBody for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(HttpBody::size_hint);
        hint.unwrap_or_default()
    }
}

/// The query parameters.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Service> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Service) -> Result<Self, ApiError> {
        let text = parts.uri.query().unwrap_or_default();
        let pairs = form_urlencoded::parse(text.as_bytes());
        let parsed = serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs));
        parsed.map(Self).map_err(|error| {
            let field = field_prefix(&error.path().to_string());
            ApiError::invalid(format!("invalid query: {field}{}", error.inner()))
        })
    }
}

/// The only path parameter.
pub(super) struct Path(pub(super) String);

impl FromRequestParts<Service> for Path {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, ApiError> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, service).await;
        let path = path.map_err(|error| ApiError::invalid(error.body_text()))?;
        Ok(Self(path.0))
    }
}

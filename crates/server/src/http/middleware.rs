//! The layer around all requests: authentication, request ids, the log and the form of errors.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION, CONNECTION, CONTENT_RANGE, HOST, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::Instrument;

use super::connections::{Connection, RequestGuard};
use super::extract::read_body;
use super::idempotency::{REPLAYED_HEADER, idempotency_layer};
use crate::error::{ApiError, ApiErrorKind, SentError};
use crate::id::new_id;
use crate::owner::{Identity, Owner};
use crate::service::Service;
use crate::state::memory_budget::{Charge, Quota, attach};
use crate::sync::lock;

/// How callers connect, which decides how they authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A Unix socket that only this user can connect to. All callers are [`Owner::local`].
    UnixSocket,
    /// TCP. Callers authenticate with API keys.
    Tcp,
}

const REQUEST_ID: &str = "x-request-id";

/// The maximum length of a request id that a caller chooses, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// The maximum length of a router's error message, in bytes.
const MAX_ROUTER_MESSAGE_BYTES: usize = 4096;

/// A response of at most this many bytes does not count: its connection has room for it.
const MAX_UNCOUNTED_BYTES: usize = 64 * 1024;

/// Whether a path needs no API key.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Authenticates, counts and logs a request, and gives every error the form of the API.
pub(super) async fn request_layer(
    State((service, transport)): State<(Service, Transport)>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let _in_flight = InFlightGuard::new(&service);

    let id = request_id(request.headers());
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("-", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", id, method, route);

    let respond = async {
        let mut owner = None;
        let response = match authenticate(&service, transport, request, &mut owner) {
            Ok(request) => respond_unless_revoked(&service, owner.as_ref(), request, next).await,
            Err(error) => error.into_response(),
        };

        let response = finish_response(response, &id).await;

        let (status, took) = (response.status().as_u16(), start.elapsed());
        let metrics = &service.0.metrics;
        metrics.record_request(owner.as_ref(), method, &route, status, took);
        let owner = owner.as_ref().map_or("-", Owner::as_str);
        tracing::info!(status, owner, ms = took.as_secs_f64() * 1e3, "answered");

        response
    };

    respond.instrument(span).await
}

/// Answers a request. If its key is revoked meanwhile, the request is dropped, and the body of a response breaks off.
async fn respond_unless_revoked(
    service: &Service,
    owner: Option<&Owner>,
    request: Request,
    next: Next,
) -> Response {
    let Some(owner) = owner else {
        return idempotency_layer(service, request, next).await;
    };
    if owner.is_local() {
        return answer(service, owner, None, request, next).await;
    }

    let revoked = service.0.revocations.of(owner);
    tokio::select! {
        response = answer(service, owner, Some(revoked.clone()), request, next) => response,
        () = revoked.cancelled() => unauthorized(REVOKED).into_response(),
    }
}

/// Answers an authenticated request. Its connection is in use, and its answer counts, until the client has received it.
async fn answer(
    service: &Service,
    owner: &Owner,
    revoked: Option<CancellationToken>,
    request: Request,
    next: Next,
) -> Response {
    let connection = request.extensions().get::<Connection>().cloned();
    let started = connection.map(|connection| connection.start_request(owner));
    let guard = match started.transpose() {
        Ok(guard) => guard,
        Err(error) => {
            let mut response = error.into_response();
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            return response;
        }
    };

    let response = idempotency_layer(service, request, next).await;
    match charge_for(&response, &service.quota(owner)) {
        Ok(charge) => response.map(|body| {
            let revoked = revoked.filter(|_| !body.is_end_stream());
            Body::new(AnswerBody {
                body,
                revoked: revoked.map(|revoked| Box::pin(revoked.cancelled_owned())),
                charge,
                _guard: guard,
            })
        }),
        Err(error) => error.into_response(),
    }
}

/// Counts a response that is held in memory as a whole. One that is written in pieces costs no more than its connection.
fn charge_for(response: &Response, quota: &Quota) -> Result<Option<Arc<Charge>>, ApiError> {
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes <= MAX_UNCOUNTED_BYTES {
        return Ok(None);
    }

    Ok(Some(Arc::new(quota.charge(bytes)?)))
}

/// A response body during which its connection is in use. Its bytes count until they have been sent. It breaks off when the
/// key of its caller is revoked.
struct AnswerBody {
    body: Body,
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    charge: Option<Arc<Charge>>,
    _guard: Option<RequestGuard>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let revoked = self.revoked.as_mut();
        if revoked.is_some_and(|revoked| revoked.as_mut().poll(context).is_ready()) {
            let error = axum::Error::new("the API key was revoked");
            return Poll::Ready(Some(Err(error)));
        }

        let frame = Pin::new(&mut self.body).poll_frame(context);
        let Some(charge) = &self.charge else {
            return frame;
        };
        frame.map_ok(|frame| frame.map_data(|bytes| attach(bytes, charge)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns the name of a method for metrics. Unknown methods share one name, so that callers cannot create labels.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Counts a request as in flight until it is dropped.
struct InFlightGuard(Service);

impl InFlightGuard {
    fn new(service: &Service) -> Self {
        service.0.requests.fetch_add(1, Ordering::Relaxed);
        Self(service.clone())
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        *lock(&self.0.0.last_request) = Instant::now();
        self.0.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Checks the host, the key and the rate limit of a request, and adds its owner as an extension. The owner is also
/// written to `authenticated`, for the log.
fn authenticate(
    service: &Service,
    transport: Transport,
    mut request: Request,
    authenticated: &mut Option<Owner>,
) -> Result<Request, ApiError> {
    if transport == Transport::Tcp {
        let allowed = &service.0.settings.allowed_hosts;
        check_host(request.headers(), request.uri(), allowed)?;
    }

    if is_public(request.uri().path()) {
        return Ok(request);
    }

    let caller = match transport {
        Transport::UnixSocket => Identity::local(),
        Transport::Tcp => caller_with_key(service, request.headers())?,
    };

    let owner = caller.owner.clone();
    *authenticated = Some(owner.clone());
    service.0.rate_limiter.check(&owner).map_err(rate_limited)?;
    request.extensions_mut().insert(service.quota(&owner));
    request.extensions_mut().insert(owner);
    request.extensions_mut().insert(caller);

    Ok(request)
}

fn rate_limited(wait: Duration) -> ApiError {
    let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX - 1) + 1;
    let message = format!("rate limit of this key exceeded; retry in {seconds} s");
    ApiError {
        retry_after_s: Some(seconds),
        ..ApiError::new(ApiErrorKind::Busy, message)
    }
}

const REVOKED: &str = "unknown or revoked API key";

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(ApiErrorKind::Unauthorized, message)
}

fn caller_with_key(service: &Service, headers: &HeaderMap) -> Result<Identity, ApiError> {
    let value = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());

    let value = value.ok_or_else(|| {
        unauthorized(
            "missing API key; send `Authorization: Bearer fh_…`; `fumehood keys create NAME` creates one",
        )
    })?;

    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => {
            let message = "invalid `Authorization` header; send `Bearer`, a space and the key";
            return Err(unauthorized(message));
        }
    };

    let caller = service.0.key_cache.find(&service.0.store, token)?;

    caller.ok_or_else(|| unauthorized(REVOKED))
}

/// Rejects foreign host names. Otherwise the page of another site could reach this server through a name of that site
/// which resolves to this host (DNS rebinding).
fn check_host(headers: &HeaderMap, uri: &Uri, allowed: &[String]) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let host = first
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();

    let authority = uri.authority().map(|authority| authority.as_str());
    let mut names = [Some(host), authority].into_iter().flatten();
    if names.all(|name| is_allowed_host(name, allowed)) && second.is_none() {
        return Ok(());
    }

    let message = "`Host` header not allowed; add it with `--host NAME`, or use 127.0.0.1";
    Err(ApiError::new(ApiErrorKind::Forbidden, message))
}

fn is_allowed_host(authority: &str, allowed: &[String]) -> bool {
    // Remove the port, and the brackets of an IPv6 address.
    let bracketed = authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'));

    let name = match (bracketed, authority.rsplit_once(':')) {
        (Some((address, _)), _) => address,
        (None, Some((name, _))) => name,
        (None, None) => authority,
    };

    let is_loopback = name
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback());

    let is_named = allowed.iter().any(|one| one.eq_ignore_ascii_case(name));

    is_loopback || is_named || name.eq_ignore_ascii_case("localhost")
}

/// Returns the caller's request id if it is valid, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_valid = |id: &&str| {
        let is_allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(is_allowed)
    };

    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());

    let generate = || new_id("req").unwrap_or_else(|_| "req".into());
    given.filter(is_valid).map_or_else(generate, str::to_owned)
}

/// Adds the request's id to the headers and to the body of an error. Errors of the router receive the form of the API.
async fn finish_response(mut response: Response, id: &str) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_replayed = response.headers().contains_key(REPLAYED_HEADER);

    if is_error && !is_replayed {
        let headers = std::mem::take(response.headers_mut());
        let error = match response.extensions_mut().remove::<SentError>() {
            Some(SentError(error)) => error,
            None => error_from_router(response).await,
        };

        let error = ApiError {
            request_id: Some(id.into()),
            ..error
        };

        response = error.into_response();
        for name in [ALLOW, CONNECTION, CONTENT_RANGE, RETRY_AFTER] {
            if let Some(value) = headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
    }

    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }

    response
}

/// Converts a response of the router or a library, which has only a status and a text.
async fn error_from_router(response: Response) -> ApiError {
    let (status, body) = (response.status(), response.into_body());
    let text = read_body(body, MAX_ROUTER_MESSAGE_BYTES, None).await;
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();

    let kind = match status {
        StatusCode::UNAUTHORIZED => ApiErrorKind::Unauthorized,
        StatusCode::FORBIDDEN => ApiErrorKind::Forbidden,
        StatusCode::NOT_FOUND => ApiErrorKind::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => ApiErrorKind::MethodNotAllowed,
        StatusCode::NOT_ACCEPTABLE => ApiErrorKind::NotAcceptable,
        StatusCode::REQUEST_TIMEOUT => ApiErrorKind::Timeout,
        StatusCode::PAYLOAD_TOO_LARGE => ApiErrorKind::TooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ApiErrorKind::UnsupportedMediaType,
        status if status.is_client_error() => ApiErrorKind::Invalid,
        _ => ApiErrorKind::Internal,
    };

    let message = match text.trim() {
        "" if kind == ApiErrorKind::MethodNotAllowed => {
            "method not allowed for this path; the `Allow` header lists the methods"
        }
        "" => "the request cannot be answered",
        text => text,
    };

    ApiError::new(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_host_names() {
        let allowed = ["vm.example".to_owned()];
        for name in [
            "localhost",
            "LOCALHOST:7474",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:7474",
            "vm.example:80",
        ] {
            assert!(is_allowed_host(name, &allowed), "{name}");
        }

        for other in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "localhost.evil",
            "[::2]",
        ] {
            assert!(!is_allowed_host(other, &allowed), "{other}");
        }
    }
}

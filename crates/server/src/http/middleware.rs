use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::extract::whole;
use super::{Door, idempotency};
use crate::error::{ApiError, Kind, Said};
use crate::id::fresh_id;
use crate::owner::Owner;
use crate::service::Service;
use crate::sync::lock;

const REQUEST_ID: &str = "x-request-id";

/// Letters of a caller's request id.
const ID_BYTES: usize = 64;

/// Bytes of somebody else's words about an error.
const WORDS_BYTES: usize = 4096;

/// What needs no key.
pub(super) fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Stands before everything.
pub(super) async fn front(
    State((service, door)): State<(Service, Door)>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let _counted = Counted::new(&service);
    let id = request_id(request.headers());
    let method = known(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "-".into());
    let span = tracing::info_span!("request", id, method, route);
    let answered = async {
        let mut owner = None;
        let response = match admit(&service, door, request, &mut owner).await {
            Ok(request) => idempotency::answer(&service, request, next).await,
            Err(error) => error.into_response(),
        };
        let response = finished(response, &id).await;
        let (status, took) = (response.status().as_u16(), start.elapsed());
        service.0.metrics.answered(method, &route, status, took);
        let owner = owner.as_ref().map_or("-", Owner::as_str);
        tracing::info!(status, owner, ms = took.as_secs_f64() * 1e3, "answered");
        response
    };
    answered.instrument(span).await
}

/// A method by its name: what callers make up would be kept for ever, in counts.
fn known(method: &Method) -> &'static str {
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

/// Counts requests that are being answered.
struct Counted(Service);

impl Counted {
    fn new(service: &Service) -> Self {
        service.0.requests.fetch_add(1, Ordering::Relaxed);
        Self(service.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *lock(&self.0.0.last_request) = Instant::now();
        self.0.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn admit(
    service: &Service,
    door: Door,
    mut request: Request,
    found: &mut Option<Owner>,
) -> Result<Request, ApiError> {
    if door == Door::Keyed {
        check_host(request.headers(), request.uri(), &service.0.settings.hosts)?;
    }
    if is_open(request.uri().path()) {
        return Ok(request);
    }
    let owner = match door {
        Door::Local => Owner::local(),
        Door::Keyed => by_key(service, request.headers())?,
    };
    *found = Some(owner.clone());
    service.0.rates.one(&owner).map_err(too_many)?;
    request.extensions_mut().insert(owner);
    Ok(request)
}

fn too_many(wait: Duration) -> ApiError {
    let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX - 1) + 1;
    let message = format!("too many requests of this key; try again in {seconds} s");
    ApiError {
        retry_after_s: Some(seconds),
        ..ApiError::new(Kind::Busy, message)
    }
}

fn by_key(service: &Service, headers: &HeaderMap) -> Result<Owner, ApiError> {
    let refused = |message: &str| ApiError::new(Kind::Unauthorized, message);
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given.ok_or_else(|| {
        refused(
            "this needs a key, as `Authorization: Bearer fh_…`; `fumehood keys create` makes one",
        )
    })?;
    let token = match given.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => {
            return Err(refused(
                "`Authorization` is to be `Bearer`, a space and a key",
            ));
        }
    };
    let owner = service.0.seen.owner(&service.0.store, token)?;
    owner.ok_or_else(|| refused("this key is not known here, or was revoked"))
}

/// Refuses names that are not ours: a page of another site whose name leads here would speak with us.
fn check_host(headers: &HeaderMap, uri: &Uri, allowed: &[String]) -> Result<(), ApiError> {
    let mut all = headers.get_all(HOST).iter();
    let (first, more) = (all.next(), all.next());
    let named = first
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let named = [
        Some(named),
        uri.authority().map(|authority| authority.as_str()),
    ];
    let is_known = named
        .into_iter()
        .flatten()
        .all(|name| is_ours(name, allowed));
    if is_known && more.is_none() {
        return Ok(());
    }
    let message =
        "`Host` is none of this server's names; allow it by `--host NAME`, or use 127.0.0.1";
    Err(ApiError::new(Kind::Forbidden, message))
}

fn is_ours(authority: &str, allowed: &[String]) -> bool {
    let name = match authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((address, _)) => address,
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(name, _)| name),
    };
    let is_loopback = name
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback());
    let is_named = allowed.iter().any(|one| one.eq_ignore_ascii_case(name));
    is_loopback || is_named || name.eq_ignore_ascii_case("localhost")
}

fn request_id(headers: &HeaderMap) -> String {
    let is_fine = |id: &&str| {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        (1..=ID_BYTES).contains(&id.len()) && id.bytes().all(allowed)
    };
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let fresh = || fresh_id("req").unwrap_or_else(|_| "req".into());
    given.filter(is_fine).map_or_else(fresh, str::to_owned)
}

/// Adds the request's id, also to an error's body; gives errors of the router's own our form.
async fn finished(mut response: Response, id: &str) -> Response {
    let status = response.status();
    let is_repeated = response.headers().contains_key(idempotency::REPEATED);
    if (status.is_client_error() || status.is_server_error()) && !is_repeated {
        let headers = std::mem::take(response.headers_mut());
        let error = match response.extensions_mut().remove::<Said>() {
            Some(Said(error)) => error,
            None => foreign(response).await,
        };
        let error = ApiError {
            request_id: Some(id.into()),
            ..error
        };
        response = error.into_response();
        for name in [axum::http::header::ALLOW, axum::http::header::CONTENT_RANGE] {
            if let Some(value) = headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        if let Some(after) = headers.get(RETRY_AFTER) {
            response.headers_mut().insert(RETRY_AFTER, after.clone());
        }
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

async fn foreign(response: Response) -> ApiError {
    let (status, body) = (response.status(), response.into_body());
    let words = whole(body, WORDS_BYTES).await.unwrap_or_default();
    let words = String::from_utf8_lossy(&words).into_owned();
    let kind = match status.as_u16() {
        401 => Kind::Unauthorized,
        403 => Kind::Forbidden,
        404 => Kind::NotFound,
        405 => Kind::MethodNotAllowed,
        406 => Kind::NotAcceptable,
        408 => Kind::Timeout,
        413 => Kind::TooLarge,
        415 => Kind::UnsupportedMediaType,
        400..500 => Kind::Invalid,
        _ => Kind::Internal,
    };
    let words = match words.trim() {
        "" if kind == Kind::MethodNotAllowed => {
            "this path has no such method; `Allow` says which it has"
        }
        "" => "it cannot be answered",
        words => words,
    };
    ApiError::new(kind, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_ours() {
        let allowed = ["vm.example".to_owned()];
        for ours in [
            "localhost",
            "LOCALHOST:7474",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:7474",
            "vm.example:80",
        ] {
            assert!(is_ours(ours, &allowed), "{ours}");
        }
        for other in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "localhost.evil",
            "[::2]",
        ] {
            assert!(!is_ours(other, &allowed), "{other}");
        }
    }
}

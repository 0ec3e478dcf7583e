//! The `Idempotency-Key` header: a request with a key is carried out once, and its response is replayed.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fumehood_engine::Retry;
use sha2::{Digest, Sha256};

use super::extract::{MAX_BODY_BYTES, read_body};
use crate::error::{ApiError, ApiErrorKind, SentError};
use crate::owner::Owner;
use crate::service::Service;
use crate::storage::idempotency::{IdempotencyKey, PriorUse, StoredResponse};

const KEY_HEADER: &str = "idempotency-key";

/// Marks a replayed response.
pub(super) const REPLAYED_HEADER: &str = "idempotent-replayed";

/// The largest response that is read in order to store it, in bytes. Responses of such requests are short.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The methods that change something, by the paths of the API.
#[derive(Debug, Clone)]
pub(super) struct ChangingMethods(Arc<HashMap<String, Vec<Method>>>);

impl ChangingMethods {
    pub(super) fn of(api: &utoipa::openapi::OpenApi) -> Self {
        let paths = api.paths.paths.iter().map(|(path, item)| {
            let methods = [
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            let declared = methods.into_iter().filter(|(_, one)| one.is_some());
            (path.clone(), declared.map(|(method, _)| method).collect())
        });
        Self(Arc::new(paths.collect()))
    }

    /// Returns whether a path may have this method, and the method may change something. Paths outside of the API may.
    pub(super) fn contain(&self, method: &Method, path: &str) -> bool {
        let declared = self.0.get(path);
        declared.is_none_or(|methods| methods.contains(method))
    }
}

/// Answers a request, and respects its idempotency key if it has one.
pub(super) async fn idempotency_layer(service: &Service, request: Request, next: Next) -> Response {
    match respond(service, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn respond(service: &Service, request: Request, next: Next) -> Result<Response, ApiError> {
    let owner = request.extensions().get::<Owner>();
    let header = request.headers().get(KEY_HEADER);
    let (Some(header), Some(owner)) = (header.cloned(), owner.cloned()) else {
        return Ok(next.run(request).await);
    };

    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("", MatchedPath::as_str).to_owned();

    // Other methods change nothing, or do not exist here, which the router says.
    let changing = request.extensions().get::<ChangingMethods>();
    let is_read_only = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    if is_read_only || changing.is_some_and(|changing| !changing.contain(&method, &route)) {
        return Ok(next.run(request).await);
    }

    let key = header.to_str().unwrap_or_default();

    // Writing the same content twice has the effect of writing it once, and need not be buffered.
    if method == Method::PUT {
        IdempotencyKey::new(key, Vec::new())?;
        return Ok(next.run(request).await);
    }

    let (mut parts, body) = request.into_parts();
    let quota = service.quota(&owner);
    let body = read_body(body, MAX_BODY_BYTES, Some(&quota)).await?;
    let key = IdempotencyKey::new(key, hash(&method, &parts.uri.to_string(), &body))?;

    // The service handles the keys of runs: a repeated request attaches to the run instead of replaying a response.
    let starts_run =
        method == Method::POST && (route.ends_with("/runs") || route.ends_with("/processes"));

    if starts_run {
        parts.extensions.insert(key);
        let request = Request::from_parts(parts, Body::from(body));
        return Ok(next.run(request).await);
    }

    // The task runs to its end even if the caller disconnects: its response is replayed later.
    let request = Request::from_parts(parts, Body::from(body));
    let service = service.clone();
    let task =
        tokio::spawn(async move { execute_once(&service, &owner, key, request, next).await });

    task.await.map_err(|e| ApiError::internal(&e))?
}

async fn execute_once(
    service: &Service,
    owner: &Owner,
    key: IdempotencyKey,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let locks = &service.0.key_locks;
    let guard = locks.acquire(&service.0.store, owner, key).await;
    match guard.prior_use()? {
        PriorUse::Unused => {}
        PriorUse::Response(stored) => return Ok(replay(stored)),
        PriorUse::Run(_) => {
            let message = "this `Idempotency-Key` was used for a run; use a new key";
            return Err(ApiError::new(ApiErrorKind::Conflict, message));
        }
    }

    guard.record_start(None)?;
    let response = next.run(request).await;

    // A request that had no effect does not use up its key.
    let error = response.extensions().get::<SentError>();
    let is_error = response.status().as_u16() >= 400;

    if is_error && error.is_none_or(|SentError(error)| error.retry == Retry::Safe) {
        guard.release();
        return Ok(response);
    }

    let (parts, body) = response.into_parts();
    let body = read_body(body, MAX_ANSWER_BYTES, None).await?;
    let content_type = parts.headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    guard.record_response(&StoredResponse {
        status: parts.status.as_u16(),
        content_type: content_type.map(str::to_owned),
        body: body.to_vec(),
    });

    Ok(Response::from_parts(parts, Body::from(body)))
}

fn replay(stored: StoredResponse) -> Response {
    let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Bytes::from(stored.body)).into_response();

    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    let content_type = stored.content_type.as_deref();

    if let Some(value) = content_type.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(CONTENT_TYPE, value);
    }

    headers.insert(REPLAYED_HEADER, HeaderValue::from_static("true"));

    response
}

/// Hashes everything that a request says. Lengths separate the parts.
fn hash(method: &Method, uri: &str, body: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [method.as_str().as_bytes(), uri.as_bytes(), body] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

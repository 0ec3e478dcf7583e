use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::BODY_BYTES;
use super::extract::whole;
use crate::error::{ApiError, Kind, Said};
use crate::owner::Owner;
use crate::service::Service;
use crate::storage::idempotency::{Before, Given, Once};

const KEY: &str = "idempotency-key";

/// An answer that is repeated says so.
pub(super) const REPEATED: &str = "idempotent-replayed";

/// The most of an answer that is read to be kept: answers to what acts are short.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Answers a request, once where it has a key.
pub(super) async fn answer(service: &Service, request: Request, next: Next) -> Response {
    match keyed(service, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn keyed(service: &Service, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let acts = !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let key = request.headers().get(KEY).filter(|_| acts).cloned();
    let owner = request.extensions().get::<Owner>().cloned();
    let (Some(key), Some(owner)) = (key, owner) else {
        return Ok(next.run(request).await);
    };
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_default();
    let key = key.to_str().unwrap_or_default().to_owned();
    if *request.method() == Method::PUT {
        // The same content put twice is the same file.
        Once::new(&key, Vec::new())?;
        return Ok(next.run(request).await);
    }
    let (mut parts, body) = request.into_parts();
    let body = whole(body, BODY_BYTES).await?;
    let once = Once::new(&key, hash(&parts.method, &parts.uri.to_string(), &body))?;
    let begins_a_run =
        parts.method == Method::POST && (route.ends_with("/runs") || route.ends_with("/processes"));
    if begins_a_run {
        parts.extensions.insert(once);
        request = Request::from_parts(parts, Body::from(body));
        return Ok(next.run(request).await);
    }
    let request = Request::from_parts(parts, Body::from(body));
    let service = service.clone();
    // To its end, whoever goes away: its answer is wanted later.
    let answered = tokio::spawn(async move { act(&service, &owner, once, request, next).await });
    answered.await.map_err(|e| ApiError::internal(&e))?
}

async fn act(
    service: &Service,
    owner: &Owner,
    once: Once,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let claim = service.0.claims.claim(&service.0.store, owner, once).await;
    match claim.before()? {
        Before::Nothing => {}
        Before::Given(given) => return Ok(repeated(given)),
        Before::Run(_) => {
            let message = "this `Idempotency-Key` was used for a run; take a new one";
            return Err(ApiError::new(Kind::Conflict, message));
        }
    }
    claim.begin(None)?;
    let response = next.run(request).await;
    let said = response.extensions().get::<Said>();
    let is_error = response.status().as_u16() >= 400;
    if is_error && said.is_none_or(|Said(error)| error.retry == "safe") {
        claim.end(None)?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = whole(body, ANSWER_BYTES).await?;
    let content_type = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let given = Given {
        status: parts.status.as_u16(),
        content_type: content_type.map(str::to_owned),
        body: body.to_vec(),
    };
    claim.end(Some(given))?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn repeated(given: Given) -> Response {
    let status = StatusCode::from_u16(given.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Bytes::from(given.body)).into_response();
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    if let Some(value) = given
        .content_type
        .and_then(|value| HeaderValue::from_str(&value).ok())
    {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(REPEATED, HeaderValue::from_static("true"));
    response
}

fn hash(method: &Method, uri: &str, body: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [method.as_str().as_bytes(), uri.as_bytes(), body] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::BODY_BYTES;
use crate::error::{ApiError, Kind};
use crate::owner::Owner;
use crate::service::Service;

/// How long a body may stand still.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// Who asks. The door has found out.
pub(super) struct Caller(pub(super) Owner);

impl FromRequestParts<Service> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Service) -> Result<Self, ApiError> {
        let owner = parts.extensions.get::<Owner>().cloned();
        owner
            .map(Self)
            .ok_or_else(|| ApiError::new(Kind::Unauthorized, "this needs a key"))
    }
}

/// A body of JSON. An empty one is an empty object.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Service> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Service) -> Result<Self, ApiError> {
        let given = request
            .headers()
            .get(CONTENT_TYPE)
            .map(|given| given.to_str().unwrap_or_default());
        let is_json = given.is_none_or(|given| {
            let essence = given.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
        });
        let bytes = whole(request.into_body(), BODY_BYTES).await?;
        if !is_json && !bytes.is_empty() {
            let message = "the body is to be JSON, with `Content-Type: application/json`";
            return Err(ApiError::new(Kind::UnsupportedMediaType, message));
        }
        let bytes = if bytes.is_empty() {
            Bytes::from_static(b"{}")
        } else {
            bytes
        };
        let mut parser = serde_json::Deserializer::from_slice(&bytes);
        let wrong = |path: &str, error: &dyn std::fmt::Display| {
            let at = match path {
                "" | "." => String::new(),
                path => format!("`{path}`: "),
            };
            ApiError::invalid(format!("the body: {at}{error}"))
        };
        let read = serde_path_to_error::deserialize(&mut parser)
            .map_err(|error| wrong(&error.path().to_string(), error.inner()))?;
        parser.end().map_err(|error| wrong("", &error))?;
        Ok(Self(read))
    }
}

/// All of a body.
///
/// # Errors
/// [`Kind::TooLarge`], [`Kind::Timeout`].
pub(super) async fn whole(mut body: Body, most: usize) -> Result<Bytes, ApiError> {
    let mut all = BytesMut::new();
    while let Some(piece) = piece(&mut body).await? {
        if all.len() + piece.len() > most {
            let message =
                format!("the body has more than {most} bytes, the most that is allowed here");
            return Err(ApiError::new(Kind::TooLarge, message));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// The next bytes of a body.
///
/// # Errors
/// [`Kind::Timeout`]; [`Kind::Invalid`]: it broke off.
pub(super) async fn piece(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = tokio::time::timeout(STALL, body.frame()).await;
        let frame = frame.map_err(|_| {
            let message = format!("nothing of the body came for {} s", STALL.as_secs());
            ApiError::new(Kind::Timeout, message)
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                return Err(ApiError::invalid(format!("the body broke off: {error}")));
            }
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// What stands in the query.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Service> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Service) -> Result<Self, ApiError> {
        let text = parts.uri.query().unwrap_or_default();
        let pairs = serde_urlencoded::Deserializer::new(form(text));
        let read = serde_path_to_error::deserialize(pairs);
        read.map(Self).map_err(|error| {
            let at = match error.path().to_string().as_str() {
                "" | "." => String::new(),
                path => format!("`{path}`: "),
            };
            ApiError::invalid(format!("the query: {at}{}", error.inner()))
        })
    }
}

fn form(text: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(text.as_bytes())
}

/// What stands in the path.
pub(super) struct Path(pub(super) String);

impl FromRequestParts<Service> for Path {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, ApiError> {
        let found = axum::extract::Path::<String>::from_request_parts(parts, service).await;
        found
            .map(|path| Self(path.0))
            .map_err(|error| ApiError::invalid(error.body_text()))
    }
}

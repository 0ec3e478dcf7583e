//! The error of the API: its kind, its HTTP status, and whether a retry can help.

use std::io;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use fumehood_engine::{Error, ErrorKind, Retry};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The kind of an error, which decides its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApiErrorKind {
    /// The request is invalid. The message names the problem and the allowed values.
    Invalid,
    /// The API key is missing, unknown or revoked.
    Unauthorized,
    /// The caller is not allowed to do this.
    Forbidden,
    /// The object does not exist, or belongs to another key.
    NotFound,
    /// The path exists, but does not support this method.
    MethodNotAllowed,
    /// The response has no media type that the request accepts.
    NotAcceptable,
    /// The request body did not arrive in time.
    Timeout,
    /// The state of the object does not allow this, or the idempotency key was used for another request.
    Conflict,
    /// The sandbox has ended, or its VM was lost.
    Lost,
    /// The request body is too large.
    TooLarge,
    /// The media type of the request body is not supported.
    UnsupportedMediaType,
    /// The requested range is outside of the file.
    RangeNotSatisfiable,
    /// There is no capacity, or the caller sends too many requests.
    Busy,
    /// The guest violated the protocol.
    Protocol,
    /// A package index cannot be reached.
    Unreachable,
    /// Something must be installed or built on this host first.
    Missing,
    /// Something on this host is damaged.
    Damaged,
    /// This host does not permit the operation, or has run out of a resource.
    Host,
    /// The VM failed to start.
    Boot,
    /// The server is shutting down and accepts no new work.
    Draining,
    /// The disk of the server's state is full.
    StorageFull,
    /// The server failed internally.
    Internal,
}

impl ApiErrorKind {
    /// Returns the HTTP status of an error of this kind.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Lost => StatusCode::GONE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Protocol | Self::Unreachable => StatusCode::BAD_GATEWAY,
            Self::Missing | Self::Damaged | Self::Host | Self::Boot | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the name that JSON and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotAcceptable => "not_acceptable",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Lost => "lost",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::Busy => "busy",
            Self::Protocol => "protocol",
            Self::Unreachable => "unreachable",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Host => "host",
            Self::Boot => "boot",
            Self::Draining => "draining",
            Self::StorageFull => "storage_full",
            Self::Internal => "internal",
        }
    }

    /// Returns the retry advice for an error of this kind, unless its cause is known better.
    fn retry(self) -> Retry {
        match self {
            Self::Busy
            | Self::Draining
            | Self::StorageFull
            | Self::Timeout
            | Self::Unreachable
            | Self::Host
            | Self::Boot
            | Self::Protocol => Retry::Safe,
            Self::Lost | Self::Internal => Retry::Unknown,
            _ => Retry::Never,
        }
    }
}

impl From<ErrorKind> for ApiErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Missing => Self::Missing,
            ErrorKind::Damaged => Self::Damaged,
            ErrorKind::Unreachable => Self::Unreachable,
            ErrorKind::Busy => Self::Busy,
            ErrorKind::InUse => Self::Conflict,
            ErrorKind::Boot => Self::Boot,
            ErrorKind::Protocol => Self::Protocol,
            ErrorKind::Lost => Self::Lost,
            _ => Self::Host,
        }
    }
}

/// The `Retry-After` of an error for lack of capacity, in seconds: a VM ends within a few.
const BUSY_RETRY_AFTER_S: u32 = 2;

/// The `Retry-After` of an error for a full disk, in seconds: a person must free space.
const STORAGE_RETRY_AFTER_S: u32 = 30;

/// The message for a failure of the server; its log has the details.
const INTERNAL_MESSAGE: &str =
    "internal server error; the server's log has the details under this request's id";

/// An error as callers receive it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ApiError {
    /// The kind of the error.
    pub kind: ApiErrorKind,
    /// `safe`: the same request can be repeated. `never`: it will fail again. `unknown`: it may have been carried out.
    pub retry: Retry,
    /// The message for people.
    pub message: String,
    /// For errors of guest files: `not_found`, `permission_denied`, `already_exists`, `is_a_directory`,
    /// `not_a_directory`, `no_space` or `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub io: Option<&'static str>,
    /// Why the sandbox ended, if that is the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ended: Option<Box<str>>,
    /// The id of the run that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub run: Option<Box<str>>,
    /// The id of the request, as in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request_id: Option<Box<str>>,
    /// The value of the `Retry-After` header, in seconds.
    #[serde(skip)]
    pub retry_after_s: Option<u32>,
}

/// The body of an error response.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorResponse {
    /// The error.
    pub error: ApiError,
}

impl ApiError {
    /// Creates an error with the retry advice of its kind.
    #[must_use]
    pub fn new(kind: ApiErrorKind, message: impl Into<String>) -> Self {
        let is_temporary = matches!(kind, ApiErrorKind::Busy | ApiErrorKind::Draining);
        Self {
            kind,
            retry: kind.retry(),
            message: message.into(),
            io: None,
            ended: None,
            run: None,
            request_id: None,
            retry_after_s: is_temporary.then_some(BUSY_RETRY_AFTER_S),
        }
    }

    /// Replaces the retry advice.
    #[must_use]
    pub(crate) fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ApiErrorKind::Invalid, message)
    }

    /// Creates the error for an object that does not exist. A long `id` is shortened in the message.
    pub(crate) fn not_found(object: &str, id: &str) -> Self {
        let id: String = id.chars().take(64).collect();
        Self::new(ApiErrorKind::NotFound, format!("no such {object}: `{id}`"))
    }

    /// Creates the error of a request that had no effect because its state could not be written.
    pub(crate) fn storage_full() -> Self {
        let message = "the disk of the server's state is full, so this request was not carried out; the operator must free \
                       space on it. Runs without an `Idempotency-Key` still work";
        Self {
            retry_after_s: Some(STORAGE_RETRY_AFTER_S),
            ..Self::new(ApiErrorKind::StorageFull, message)
        }
    }

    /// Logs a failure of the server, and creates the error for it, which does not reveal the cause.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "internal error");
        Self::new(ApiErrorKind::Internal, INTERNAL_MESSAGE)
    }

    /// Creates the error of a run with its own VM. Its paths are part of the request, and no objects of the API: one
    /// that is missing, or that the run may not use, makes the request invalid.
    pub(crate) fn of_one_shot_run(error: Error) -> Self {
        let kind = error.kind().into();
        Self {
            kind,
            ..Self::from(error)
        }
    }

    /// Creates the error for a handler that panicked. The panic is logged by its hook.
    pub(crate) fn panicked() -> Self {
        Self::new(ApiErrorKind::Internal, INTERNAL_MESSAGE)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let io = error.io_kind().map(io_name);
        let kind = match io {
            Some("not_found") => ApiErrorKind::NotFound,
            Some("permission_denied") => ApiErrorKind::Forbidden,
            Some("already_exists") => ApiErrorKind::Conflict,
            _ => error.kind().into(),
        };

        Self {
            io,
            retry: error.retry(),
            ..Self::new(kind, error.to_string())
        }
    }
}

fn io_name(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "not_found",
        io::ErrorKind::PermissionDenied => "permission_denied",
        io::ErrorKind::AlreadyExists => "already_exists",
        io::ErrorKind::IsADirectory => "is_a_directory",
        io::ErrorKind::NotADirectory => "not_a_directory",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no_space",
        _ => "other",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let retry_after_s = self.retry_after_s;
        let sent = SentError(self.clone());

        let mut response = (status, Json(ErrorResponse { error: self })).into_response();
        let headers = response.headers_mut();

        if let Some(seconds) = retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }

        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }

        response.extensions_mut().insert(sent);

        response
    }
}

/// The error in a response, as an extension of it. A later layer uses it to add the request's id.
#[derive(Debug, Clone)]
pub(crate) struct SentError(pub(crate) ApiError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status_and_busy_says_when_to_retry() {
        let response = ApiError::new(ApiErrorKind::Busy, "x").into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");

        let response = ApiError::new(ApiErrorKind::Lost, "x").into_response();
        assert_eq!(response.status(), 410);
    }

    #[test]
    fn names_are_those_of_json() {
        for kind in [
            ApiErrorKind::NotFound,
            ApiErrorKind::UnsupportedMediaType,
            ApiErrorKind::RangeNotSatisfiable,
            ApiErrorKind::TooLarge,
            ApiErrorKind::MethodNotAllowed,
            ApiErrorKind::StorageFull,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}

use std::io;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use fumehood_engine::{Error, ErrorKind, Retry};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of trouble it is, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request is not allowed: what was wrong, what the limit is, what to do.
    Invalid,
    /// No key, or none that is known.
    Unauthorized,
    /// Not for this caller.
    Forbidden,
    /// It is not there, or belongs to somebody else.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// It cannot be answered in a form that is asked for.
    NotAcceptable,
    /// The body did not come.
    Timeout,
    /// A state that does not allow it, or an idempotency key that was used for something else.
    Conflict,
    /// The sandbox has ended, or its VM went away.
    Lost,
    /// The body is too large.
    TooLarge,
    /// The body is of another type than it may be.
    UnsupportedMediaType,
    /// The range lies outside of the file.
    RangeNotSatisfiable,
    /// No room, or too many requests.
    Busy,
    /// The guest broke the protocol.
    Protocol,
    /// A package index was not reached.
    Unreachable,
    /// Something must be installed or built first on this host.
    Missing,
    /// Something on this host is damaged.
    Damaged,
    /// This host does not permit it, or gives no more of something.
    Host,
    /// The VM did not start.
    Boot,
    /// The server takes no new work.
    Draining,
    /// A fault of the server's own.
    Internal,
}

impl Kind {
    /// The status that an answer of this kind has.
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
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn of(kind: ErrorKind) -> Self {
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

    /// The kind of this name; a server's own fault, where there is none.
    pub(crate) fn named(name: &str) -> Self {
        serde_json::from_value(name.into()).unwrap_or(Self::Internal)
    }

    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> String {
        let name = serde_json::to_value(self);
        name.ok()
            .and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// Seconds after which to come again where there was no room: a VM is gone in a few.
const RETRY_ROOM_S: u32 = 2;

/// Why something was not done.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ApiError {
    /// What kind of trouble it is.
    pub kind: Kind,
    /// `safe`: the same request can be made again. `never`: it will fail again. `unknown`: it may have been done.
    #[schema(value_type = String)]
    pub retry: &'static str,
    /// What was wrong, for a person.
    pub message: String,
    /// What was wrong with a file in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub io: Option<&'static str>,
    /// Why the sandbox has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ended: Option<Box<str>>,
    /// The run that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub run: Option<Box<str>>,
    /// The request, as logs name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request_id: Option<Box<str>>,
    /// Seconds after which to try again.
    #[serde(skip)]
    pub retry_after_s: Option<u32>,
}

/// An error as a body holds it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

impl ApiError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let retry = match kind {
            Kind::Busy
            | Kind::Draining
            | Kind::Timeout
            | Kind::Unreachable
            | Kind::Host
            | Kind::Boot
            | Kind::Protocol => "safe",
            Kind::Lost | Kind::Internal => "unknown",
            _ => "never",
        };
        Self {
            kind,
            retry,
            message: message.into(),
            io: None,
            ended: None,
            run: None,
            request_id: None,
            retry_after_s: matches!(kind, Kind::Busy | Kind::Draining).then_some(RETRY_ROOM_S),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        let id: String = id.chars().take(64).collect();
        Self::new(Kind::NotFound, format!("there is no {what} `{id}`"))
    }

    pub(crate) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a fault of the server's own");
        let message = "a fault of the server's own; its log says more under this request's id";
        Self::new(Kind::Internal, message)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let io = error.io_kind().map(io_name);
        let kind = match io {
            Some("not_found") => Kind::NotFound,
            Some("permission_denied") => Kind::Forbidden,
            Some("already_exists") => Kind::Conflict,
            _ => Kind::of(error.kind()),
        };
        let retry = match error.retry() {
            Retry::Safe => "safe",
            Retry::Never => "never",
            Retry::Unknown => "unknown",
        };
        Self {
            io,
            retry,
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
        let (status, after) = (self.kind.status(), self.retry_after_s);
        let is_unauthorized = self.kind == Kind::Unauthorized;
        let said = Said(self.clone());
        let mut response = (status, Json(ErrorBody { error: self })).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if is_unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(axum::http::header::WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(said);
        response
    }
}

/// An error on its way out: whoever knows the request's id adds it.
#[derive(Debug, Clone)]
pub(crate) struct Said(pub(crate) ApiError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status_and_busy_says_when() {
        let response = ApiError::new(Kind::Busy, "x").into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(Kind::NotFound.name(), "not_found");
        let response = ApiError::new(Kind::Lost, "x").into_response();
        assert_eq!(response.status(), 410);
    }
}

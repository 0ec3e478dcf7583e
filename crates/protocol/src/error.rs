use serde::{Deserialize, Serialize};

/// The kind of error that an `error` response reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// Not a JSON object, unknown action, unknown, missing or mistyped field, value out of range.
    RequestError,
    /// The byte stream itself is invalid: a line too long, invalid UTF-8, a wrong token.
    ProtocolError,
    /// The code exceeds its limit.
    CodeError,
    /// An environment variable's name or value is not allowed.
    EnvVarError,
    /// A package's name or specifier is not allowed, or packages are not available.
    PackageError,
    /// A path is not allowed, or the operation on it failed.
    PathError,
    /// Too many concurrent operations; retry when one has ended.
    BusyError,
    /// The token is missing or wrong.
    AuthError,
    /// The agent itself failed: out of memory, no interpreter.
    AgentError,
    /// The guest was restored, or is about to be saved, and waits for its `refresh`.
    RefreshError,
}

impl ErrorType {
    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestError => "request_error",
            Self::ProtocolError => "protocol_error",
            Self::CodeError => "code_error",
            Self::EnvVarError => "env_var_error",
            Self::PackageError => "package_error",
            Self::PathError => "path_error",
            Self::BusyError => "busy_error",
            Self::AuthError => "auth_error",
            Self::AgentError => "agent_error",
            Self::RefreshError => "refresh_error",
        }
    }
}

impl std::fmt::Display for ErrorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error for the peer: its type, and a message with the cause, the limit, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error_type}: {message}")]
pub struct WireError {
    /// The kind of error.
    pub error_type: ErrorType,
    /// The message, for people.
    pub message: String,
    /// The kernel's error number, if a file operation failed.
    pub errno: Option<i32>,
}

impl WireError {
    /// Creates an error of this type.
    #[must_use]
    pub fn new(error_type: ErrorType, message: impl Into<String>) -> Self {
        Self {
            error_type,
            message: message.into(),
            errno: None,
        }
    }

    /// Adds the kernel's error number.
    #[must_use]
    pub fn with_errno(self, errno: i32) -> Self {
        Self {
            errno: Some(errno),
            ..self
        }
    }
}

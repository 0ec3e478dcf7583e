use serde::{Deserialize, Serialize};

/// What kind of mistake an `error` response reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// Not a JSON object, unknown action, unknown, missing or mistyped field, value out of range.
    RequestError,
    /// The stream of bytes itself is wrong: a line too long, invalid UTF-8, a bad token.
    ProtocolError,
    /// The code is past its limit.
    CodeError,
    /// An environment variable's name or value is not allowed.
    EnvVarError,
    /// A package's name or specifier is not allowed, or packages are not to be had.
    PackageError,
    /// A path is not allowed, or what was asked of it cannot be done.
    PathError,
    /// Too many operations at once; try again when one has ended.
    BusyError,
    /// No or a wrong token.
    AuthError,
    /// The agent could not do its part: out of memory, no interpreter.
    AgentError,
    /// The guest was restored, or is about to be saved, and waits for its `refresh`.
    RefreshError,
}

impl ErrorType {
    /// The name on the wire.
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

/// A refusal: its type and a message that says what was wrong, what the limit is and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error_type}: {message}")]
pub struct WireError {
    /// The kind of mistake.
    pub error_type: ErrorType,
    /// For a person.
    pub message: String,
    /// The kernel's number of what went wrong with a file.
    pub errno: Option<i32>,
}

impl WireError {
    /// A refusal of this type.
    #[must_use]
    pub fn new(error_type: ErrorType, message: impl Into<String>) -> Self {
        Self {
            error_type,
            message: message.into(),
            errno: None,
        }
    }

    /// The same, with the kernel's number of what went wrong.
    #[must_use]
    pub fn with_errno(self, errno: i32) -> Self {
        Self {
            errno: Some(errno),
            ..self
        }
    }
}

//! Files in requests: the content of uploads, and changes of directories.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::ApiError;

/// Returns the content of a file that a request gives as either text or base64. White space in base64 is ignored.
///
/// # Errors
/// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) unless exactly one is given, and valid.
pub(crate) fn file_content(text: Option<&str>, base64: Option<&str>) -> Result<Vec<u8>, ApiError> {
    match (text, base64) {
        (Some(text), None) => Ok(text.as_bytes().to_vec()),
        (None, Some(base64)) => {
            let base64: String = base64.split_ascii_whitespace().collect();
            let decoded = STANDARD.decode(base64);
            decoded.map_err(|error| ApiError::invalid(format!("invalid `base64`: {error}")))
        }
        _ => {
            let message = "give the content as either `text` or `base64`";
            Err(ApiError::invalid(message))
        }
    }
}

/// A file to write before a run: its path, and its content as either `text` or `base64`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The path: absolute, or relative to the home directory. Missing directories are created.
    #[schema(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub path: String,
    /// The content as text.
    #[serde(default)]
    pub text: Option<String>,
    /// The content as base64, for binary files.
    #[serde(default)]
    pub base64: Option<String>,
}

impl UploadRequest {
    /// Returns the content.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) unless there is a path and exactly one valid content.
    pub(super) fn content(&self) -> Result<Vec<u8>, ApiError> {
        let invalid = |message: &str| ApiError::invalid(format!("`uploads`: {message}"));
        if self.path.is_empty() || self.path.ends_with('/') {
            return Err(invalid("`path` must name a file"));
        }

        file_content(self.text.as_deref(), self.base64.as_deref())
            .map_err(|error| invalid(&format!("{}: {}", self.path, error.message)))
    }
}

/// A directory to create.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DirectoryRequest {
    /// The path: absolute, or relative to the home directory.
    #[schema(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub path: String,
}

/// A file or directory to move.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveRequest {
    /// The current path.
    #[schema(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub from: String,
    /// The new path.
    #[schema(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub to: String,
    /// Whether to replace an existing file.
    #[serde(default)]
    pub replace: bool,
}

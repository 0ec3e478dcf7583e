use std::sync::Arc;

use fumehood_engine::Retry;

use super::handle::SandboxHandle;
use crate::api::sandbox_responses::SandboxResponse;
use crate::error::{ApiError, ApiErrorKind};

/// A sandbox that was looked up.
#[derive(Debug)]
pub(crate) enum SandboxLookup {
    /// The sandbox has not ended. It may be paused.
    Living(Arc<SandboxHandle>),
    /// The sandbox has ended, and only its record is left.
    Ended(Box<SandboxResponse>),
}

impl SandboxLookup {
    /// Returns the sandbox's id.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Living(sandbox) => sandbox.id(),
            Self::Ended(response) => &response.id,
        }
    }

    /// Returns the sandbox as callers see it.
    pub(crate) fn into_response(self) -> SandboxResponse {
        match self {
            Self::Living(sandbox) => sandbox.response(),
            Self::Ended(response) => *response,
        }
    }

    /// Returns the sandbox if it has not ended.
    ///
    /// # Errors
    /// [`ApiErrorKind::Lost`] with the reason if it has ended.
    pub(crate) fn into_living(self) -> Result<Arc<SandboxHandle>, ApiError> {
        match self {
            Self::Living(sandbox) => Ok(sandbox),
            Self::Ended(response) => {
                let why = response.ended_why.unwrap_or_default();
                let message = format!("the sandbox has ended: {why}; start a new one");
                let error = ApiError::new(ApiErrorKind::Lost, message);
                Err(ApiError {
                    ended: response.ended.map(String::into_boxed_str),
                    ..error.with_retry(Retry::Never)
                })
            }
        }
    }
}

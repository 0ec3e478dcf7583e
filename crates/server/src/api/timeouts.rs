//! When a sandbox is paused or ended without a request.

use serde::{Deserialize, Serialize};

use super::requests::{LifetimeCounts, OnIdle, SandboxRequest, TimeoutsRequest};
use crate::error::ApiError;

/// The default idle timeout of a sandbox, in seconds.
const DEFAULT_IDLE_TIMEOUT_S: u64 = 300;

/// The default maximum lifetime of a sandbox, in seconds: one day.
const DEFAULT_MAX_LIFETIME_S: u64 = 86_400;

/// The longest timeout that a request may set, in seconds: one year.
const MAX_TIMEOUT_S: u64 = 365 * 24 * 60 * 60;

/// When a sandbox is paused or ended without a request, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timeouts {
    pub(crate) idle_s: u64,
    pub(crate) lifetime_s: u64,
    pub(crate) on_idle: OnIdle,
    pub(crate) lifetime_counts: LifetimeCounts,
    /// How often the server saves the running sandbox.
    pub(crate) checkpoint_every_s: Option<u64>,
}

/// New values for [`Timeouts`]; those that are absent stay.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TimeoutChanges {
    pub(crate) idle_s: Option<u64>,
    pub(crate) lifetime_s: Option<u64>,
    pub(crate) on_idle: Option<OnIdle>,
    pub(crate) lifetime_counts: Option<LifetimeCounts>,
    pub(crate) checkpoint_every_s: Option<u64>,
}

impl From<&SandboxRequest> for TimeoutChanges {
    fn from(request: &SandboxRequest) -> Self {
        Self {
            idle_s: request.idle_timeout_s,
            lifetime_s: request.max_lifetime_s,
            on_idle: request.on_idle,
            lifetime_counts: request.lifetime_counts,
            checkpoint_every_s: request.checkpoint_every_s,
        }
    }
}

impl From<&TimeoutsRequest> for TimeoutChanges {
    fn from(request: &TimeoutsRequest) -> Self {
        Self {
            idle_s: request.idle_timeout_s,
            lifetime_s: request.max_lifetime_s,
            on_idle: request.on_idle,
            lifetime_counts: request.lifetime_counts,
            checkpoint_every_s: None,
        }
    }
}

impl Timeouts {
    pub(crate) const DEFAULT: Self = Self {
        idle_s: DEFAULT_IDLE_TIMEOUT_S,
        lifetime_s: DEFAULT_MAX_LIFETIME_S,
        on_idle: OnIdle::Pause,
        lifetime_counts: LifetimeCounts::Running,
        checkpoint_every_s: None,
    };

    /// Returns these timeouts with those of a request in their place.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) if one is too short or longer than a year.
    pub(crate) fn updated(self, changes: TimeoutChanges) -> Result<Self, ApiError> {
        /// Each save stops the guest for a moment and writes the changes.
        const MIN_CHECKPOINT_S: u64 = 5;

        let fields = [
            ("idle_timeout_s", changes.idle_s, 1),
            ("max_lifetime_s", changes.lifetime_s, 1),
            (
                "checkpoint_every_s",
                changes.checkpoint_every_s,
                MIN_CHECKPOINT_S,
            ),
        ];

        for (name, seconds, min) in fields {
            if seconds.is_some_and(|seconds| !(min..=MAX_TIMEOUT_S).contains(&seconds)) {
                let message = format!("`{name}` must be between {min} and {MAX_TIMEOUT_S} seconds");
                return Err(ApiError::invalid(message));
            }
        }

        Ok(Self {
            idle_s: changes.idle_s.unwrap_or(self.idle_s),
            lifetime_s: changes.lifetime_s.unwrap_or(self.lifetime_s),
            on_idle: changes.on_idle.unwrap_or(self.on_idle),
            lifetime_counts: changes.lifetime_counts.unwrap_or(self.lifetime_counts),
            checkpoint_every_s: changes.checkpoint_every_s.or(self.checkpoint_every_s),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_at_their_limits_and_past_them() {
        let with_idle = |idle| {
            Timeouts::DEFAULT.updated(TimeoutChanges {
                idle_s: Some(idle),
                ..TimeoutChanges::default()
            })
        };
        assert!(with_idle(1).is_ok() && with_idle(MAX_TIMEOUT_S).is_ok());

        for wrong in [0, MAX_TIMEOUT_S + 1] {
            let error = with_idle(wrong).unwrap_err();
            assert!(error.message.contains("idle_timeout_s"));
        }

        assert_eq!(with_idle(7).unwrap().lifetime_s, DEFAULT_MAX_LIFETIME_S);
    }
}

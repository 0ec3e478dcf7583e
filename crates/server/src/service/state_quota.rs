//! How many saved states a key may keep, how large they may be, and for how long.

use std::time::Duration;

use fumehood_engine::Retry;
use jiff::Timestamp;

use super::service::Service;
use crate::api::requests::{LifetimeCounts, OnIdle};
use crate::api::timeouts::Timeouts;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::state::sandbox::{EndCause, SandboxHandle};
use crate::storage::saved_checkpoints;
use crate::sync::lock;

/// Seconds in a day.
const DAY_S: u64 = 24 * 60 * 60;

impl Service {
    /// Returns the timeouts of sandboxes that ask for none.
    pub(super) fn default_timeouts(&self) -> Timeouts {
        let on_idle = if self.0.is_durable {
            self.0.settings.on_idle
        } else {
            OnIdle::End
        };
        Timeouts {
            on_idle,
            ..Timeouts::DEFAULT
        }
    }

    /// Checks that an owner may save one more state.
    ///
    /// # Errors
    /// [`ApiErrorKind::Busy`] with the bound.
    pub(super) fn check_state_quota(&self, owner: &Owner) -> Result<(), ApiError> {
        let settings = &self.0.settings;
        let (mut count, mut bytes) = saved_checkpoints::usage(&self.0.store, owner)?;
        for handle in lock(&self.0.sandboxes).values() {
            if let Some(saved) = handle.body().saved()
                && handle.owner() == owner
            {
                count += 1;
                bytes += saved.bytes;
            }
        }

        let max_bytes = settings.max_state_bytes_per_key;
        let message = if count >= settings.max_states_per_key {
            format!(
                "limit of {} saved states per key reached",
                settings.max_states_per_key
            )
        } else if bytes >= max_bytes && !owner.is_local() {
            format!("limit of {max_bytes} bytes of saved states per key reached")
        } else {
            return Ok(());
        };

        let message = format!("{message}; end paused sandboxes or delete checkpoints first");
        Err(ApiError::new(ApiErrorKind::Busy, message).with_retry(Retry::Safe))
    }

    /// Checks that an owner may have one more running sandbox.
    ///
    /// # Errors
    /// [`ApiErrorKind::Busy`].
    pub(super) fn check_running_limit(&self, owner: &Owner) -> Result<(), ApiError> {
        let max = self.max_sandboxes(owner);
        let sandboxes = lock(&self.0.sandboxes);
        let own = sandboxes.values().filter(|one| one.owner() == owner);
        let running = own.filter(|one| one.has_vm()).count();
        if running <= max {
            return Ok(());
        }

        let message =
            format!("limit of {max} running sandboxes per key reached; pause or end one first");
        Err(ApiError::new(ApiErrorKind::Busy, message))
    }

    /// Ends paused sandboxes, and deletes checkpoints, whose time is over.
    pub(super) async fn delete_expired_states(&self) {
        let handles: Vec<_> = lock(&self.0.sandboxes).values().cloned().collect();
        for handle in handles {
            if let Some(cause) = self.expiry(&handle) {
                let (ended, why) = cause.reason();
                self.end_paused(&handle, ended, why).await;
            }
        }

        let max_days = self.0.settings.max_state_days;
        let max_ms = i64::try_from(max_days * DAY_S * 1000).unwrap_or(i64::MAX);
        let oldest = Timestamp::now().as_millisecond().saturating_sub(max_ms);
        // A failure is logged; the next sweep tries again.
        for checkpoint in saved_checkpoints::list(&self.0.store).unwrap_or_default() {
            if checkpoint.created_ms < oldest {
                tracing::info!(
                    checkpoint = checkpoint.response.id,
                    "deleted: it is too old"
                );
                let _ = self.delete_saved_checkpoint(&checkpoint).await;
            }
        }
    }

    /// Returns why a paused sandbox has to end now.
    fn expiry(&self, handle: &SandboxHandle) -> Option<EndCause> {
        let (saved_at, ran) = {
            let body = handle.body();
            let saved = body.saved()?;
            (saved.saved_at, saved.ran)
        };

        let timeouts = handle.timeouts();
        let counts_always = timeouts.lifetime_counts == LifetimeCounts::Always;
        if counts_always && handle.lifetime_left(&timeouts, ran) == Duration::ZERO {
            return Some(EndCause::Lifetime(timeouts.lifetime_s));
        }

        let max_days = self.0.settings.max_state_days;
        let paused_s = Timestamp::now().duration_since(saved_at).as_secs();
        let is_expired = u64::try_from(paused_s).is_ok_and(|paused_s| paused_s >= max_days * DAY_S);
        is_expired.then_some(EndCause::Expired(max_days))
    }
}

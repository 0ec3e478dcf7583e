//! A token bucket.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A token bucket: a number per second on average, and at most the same number at once.
#[derive(Debug)]
pub(crate) struct Rate {
    per_s: u64,
    /// The tokens that are left, and when they were counted.
    state: Mutex<(f64, Instant)>,
}

impl Rate {
    pub(crate) fn new(per_s: u64) -> Self {
        Self {
            per_s,
            state: Mutex::new((as_f64(per_s), Instant::now())),
        }
    }

    /// Takes one token; returns `false` if none is left.
    pub(crate) fn try_acquire(&self) -> bool {
        self.with_tokens(|tokens| {
            let has_token = *tokens >= 1.0;
            if has_token {
                *tokens -= 1.0;
            }
            has_token
        })
    }

    /// Takes `amount` tokens, even if fewer are left; returns how long to wait before taking more.
    pub(super) fn consume(&self, amount: u64) -> Duration {
        let per_s = as_f64(self.per_s);
        self.with_tokens(|tokens| {
            *tokens -= as_f64(amount);
            Duration::try_from_secs_f64((-*tokens / per_s).max(0.0)).unwrap_or(Duration::MAX)
        })
    }

    fn with_tokens<T>(&self, act: impl FnOnce(&mut f64) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let per_s = as_f64(self.per_s);
        let earned = now.duration_since(state.1).as_secs_f64() * per_s;
        *state = ((state.0 + earned).min(per_s), now);
        act(&mut state.0)
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "rates need no more precision than that"
)]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_admits_as_many_as_it_says() {
        let rate = Rate::new(10);
        let taken = (0..20).filter(|_| rate.try_acquire()).count();
        assert_eq!(taken, 10);

        tokio::time::advance(Duration::from_millis(500)).await;
        let taken = (0..20).filter(|_| rate.try_acquire()).count();
        assert_eq!(taken, 5);
    }
}

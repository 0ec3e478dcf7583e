use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many things a second, on average; as many may come at once.
#[derive(Debug)]
pub(crate) struct Rate {
    per_s: u64,
    /// What may come now, and since when.
    state: Mutex<(f64, Instant)>,
}

impl Rate {
    pub(crate) fn new(per_s: u64) -> Self {
        Self {
            per_s,
            state: Mutex::new((as_f64(per_s), Instant::now())),
        }
    }

    /// Whether one more may come.
    pub(crate) fn take(&self) -> bool {
        self.state(|left| {
            let may = *left >= 1.0;
            if may {
                *left -= 1.0;
            }
            may
        })
    }

    /// Uses up so much, also more than there is; returns how long to wait then.
    pub(super) fn spend(&self, amount: u64) -> Duration {
        let per_s = as_f64(self.per_s);
        self.state(|left| {
            *left -= as_f64(amount);
            Duration::try_from_secs_f64((-*left / per_s).max(0.0)).unwrap_or(Duration::MAX)
        })
    }

    fn state<T>(&self, act: impl FnOnce(&mut f64) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let per_s = as_f64(self.per_s);
        let grown = now.duration_since(state.1).as_secs_f64() * per_s;
        *state = ((state.0 + grown).min(per_s), now);
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
    async fn a_rate_lets_as_many_through_as_it_says() {
        let rate = Rate::new(10);
        let taken = (0..20).filter(|_| rate.take()).count();
        assert_eq!(taken, 10);
        tokio::time::advance(Duration::from_millis(500)).await;
        let taken = (0..20).filter(|_| rate.take()).count();
        assert_eq!(taken, 5);
    }
}

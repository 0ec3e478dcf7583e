//! The rate limit of requests with an API key.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

use crate::owner::Owner;

/// A limit of requests per second for each owner.
#[derive(Debug)]
pub(crate) struct RateLimiter(Option<DefaultKeyedRateLimiter<String>>);

impl RateLimiter {
    /// Creates a limiter with bursts of twice the rate; a rate of 0 disables it.
    pub(crate) fn new(requests_per_second: u32) -> Self {
        let quota = NonZeroU32::new(requests_per_second).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
            Quota::per_second(rate).allow_burst(burst)
        });
        Self(quota.map(DefaultKeyedRateLimiter::keyed))
    }

    /// Counts one request of this owner. The local user is not limited.
    ///
    /// # Errors
    /// The time to wait, if the request exceeds the limit.
    pub(crate) fn check(&self, owner: &Owner) -> Result<(), Duration> {
        let Some(limiter) = self.0.as_ref().filter(|_| !owner.is_local()) else {
            return Ok(());
        };
        let checked = limiter.check_key(&owner.as_str().to_owned());
        checked.map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_one_request_past_it() {
        let limiter = RateLimiter::new(5);
        let one = Owner::key("one");

        for _ in 0..10 {
            assert!(limiter.check(&one).is_ok());
        }

        assert!(limiter.check(&one).unwrap_err() <= Duration::from_millis(200));
        assert!(limiter.check(&Owner::key("other")).is_ok());

        let unlimited = RateLimiter::new(0);

        for _ in 0..100 {
            assert!(limiter.check(&Owner::local()).is_ok());
            assert!(unlimited.check(&one).is_ok());
        }
    }
}

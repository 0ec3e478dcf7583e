//! How many requests one key may make.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

use crate::owner::Owner;

/// Who asks how often.
#[derive(Debug)]
pub(crate) struct Rates(Option<DefaultKeyedRateLimiter<String>>);

impl Rates {
    /// So many a second, with bursts of twice that; 0 = as many as they like.
    pub(crate) fn new(rate: u32) -> Self {
        let quota = NonZeroU32::new(rate).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
            Quota::per_second(rate).allow_burst(burst)
        });
        Self(quota.map(DefaultKeyedRateLimiter::keyed))
    }

    /// One more of this owner.
    ///
    /// # Errors
    /// How long to wait before the next.
    pub(crate) fn one(&self, owner: &Owner) -> Result<(), Duration> {
        let Some(limiter) = self.0.as_ref().filter(|_| !owner.is_local()) else {
            return Ok(());
        };
        let checked = limiter.check_key(&owner.as_str().to_owned());
        checked.map_err(|not| not.wait_time_from(DefaultClock::default().now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_one_past_it() {
        let rates = Rates::new(5);
        let one = Owner::key("one");
        for _ in 0..10 {
            assert!(rates.one(&one).is_ok());
        }
        assert!(rates.one(&one).unwrap_err() <= Duration::from_millis(200));
        assert!(rates.one(&Owner::key("other")).is_ok());
        for _ in 0..100 {
            assert!(rates.one(&Owner::local()).is_ok());
            assert!(Rates::new(0).one(&one).is_ok());
        }
    }
}

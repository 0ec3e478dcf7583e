//! How long a hot image is used, and when creating one is tried.

use std::time::{Duration, Instant};

use fumehood_image::HOT_IMAGE_AGE;

/// How many VMs an engine starts from one image, for the same reason as its maximum age.
const MAX_VMS: u64 = 100_000;

/// A new image is created when this much of the old one's age or number of VMs is used up.
const RENEWAL_PERCENT: u32 = 90;

/// Minimum and maximum delay after an image could not be created: what fails once often fails again.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// Delay after another process was found to create the image: it takes some seconds.
const OTHERS_DELAY: Duration = Duration::from_secs(5);

/// The remaining lifetime of an image that this engine uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    renewal: Instant,
    end: Instant,
    vms: u64,
}

impl Lifetime {
    /// Returns the lifetime of an image that was created this long ago.
    pub(super) fn of_age(age: Duration, now: Instant) -> Self {
        let remaining = |of: Duration| now + of.saturating_sub(age);
        Self {
            renewal: remaining(HOT_IMAGE_AGE * RENEWAL_PERCENT / 100),
            end: remaining(HOT_IMAGE_AGE),
            vms: 0,
        }
    }

    /// Counts a VM that continues from the image.
    pub(super) fn count_vm(&mut self) {
        self.vms += 1;
    }

    /// Returns whether a new image is to be created.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.renewal || self.vms >= MAX_VMS * u64::from(RENEWAL_PERCENT) / 100
    }

    /// Returns whether the image may not be used any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.end || self.is_used_up()
    }

    /// Returns whether this engine has started as many VMs from the image as it may.
    pub(super) fn is_used_up(&self) -> bool {
        self.vms >= MAX_VMS
    }

    /// Returns the age of the image.
    pub(super) fn age(&self, now: Instant) -> Duration {
        HOT_IMAGE_AGE.saturating_sub(self.end.saturating_duration_since(now))
    }
}

/// The attempts to create an image.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attempts {
    failures: u32,
    next: Option<Instant>,
}

impl Attempts {
    /// Returns whether an attempt may be made now.
    pub(super) fn may_start(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Records that an attempt failed.
    pub(super) fn fail(&mut self, now: Instant) {
        let (first, longest) = RETRY_DELAY;
        let delay = first.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.next = Some(now + delay.min(longest));
    }

    /// Records that another process creates the image.
    pub(super) fn wait_for_other(&mut self, now: Instant) {
        self.next = Some(now + OTHERS_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_renewed_before_it_is_too_old() {
        let now = Instant::now();
        let of_age = |percent| Lifetime::of_age(HOT_IMAGE_AGE * percent / 100, now);
        let states = [0, 89, 90, 99, 100, 200].map(|percent| {
            let lifetime = of_age(percent);
            (lifetime.is_due(now), lifetime.is_over(now))
        });
        let (fresh, due, over) = ((false, false), (true, false), (true, true));
        assert_eq!(states, [fresh, fresh, due, due, over, over]);
        assert_eq!(of_age(50).age(now), HOT_IMAGE_AGE / 2);
    }

    #[test]
    fn an_image_is_renewed_before_it_has_started_too_many_vms() {
        let now = Instant::now();
        let mut lifetime = Lifetime::of_age(Duration::ZERO, now);
        let mut due_at = None;
        for vms in 1..=MAX_VMS {
            assert!(!lifetime.is_over(now));
            lifetime.count_vm();
            if lifetime.is_due(now) {
                due_at.get_or_insert(vms);
            }
        }
        assert_eq!(due_at, Some(90_000));
        assert!(lifetime.is_over(now) && lifetime.is_used_up());
    }

    #[test]
    fn failed_attempts_are_repeated_ever_later() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        assert!(attempts.may_start(now));

        let mut delays = Vec::new();
        for _ in 0..40 {
            attempts.fail(now);
            assert!(!attempts.may_start(now));
            let next = attempts.next.unwrap();
            assert!(attempts.may_start(next));
            delays.push((next - now).as_secs() / 60);
            now = next;
        }
        assert_eq!(delays[..7], [1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(delays.last(), Some(&60));
    }
}

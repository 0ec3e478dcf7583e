//! The bytes that a guest may transfer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::rate::Rate;
use crate::policy::NetworkLimits;

/// The bytes that a guest may transfer in total, and those that it has transferred.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: NetworkLimits,
    up: AtomicU64,
    down: AtomicU64,
    rate: Option<Rate>,
}

impl Budget {
    pub(crate) fn new(limits: NetworkLimits) -> Self {
        Self {
            limits,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            rate: limits.bytes_per_s.map(Rate::new),
        }
    }

    /// Creates a budget that cannot be exceeded.
    pub(crate) fn unlimited() -> Self {
        Self::new(NetworkLimits {
            bytes_up: u64::MAX,
            bytes_down: u64::MAX,
            bytes_per_s: None,
            ..NetworkLimits::default()
        })
    }

    /// Returns the bytes transferred from the guest, and to it.
    pub(crate) fn used(&self) -> (u64, u64) {
        (
            self.up.load(Ordering::Relaxed),
            self.down.load(Ordering::Relaxed),
        )
    }

    /// Checks that bytes are left from the guest (`up`) or to it.
    ///
    /// # Errors
    /// Returns [`BudgetExceeded`] if none are left.
    pub(super) fn check(&self, up: bool) -> Result<(), BudgetExceeded> {
        let (used_up, used_down) = self.used();
        let limits = &self.limits;
        let (used, bytes, direction, limit) = if up {
            (used_up, limits.bytes_up, "from the guest", "bytes_up")
        } else {
            (used_down, limits.bytes_down, "to the guest", "bytes_down")
        };

        if used < bytes {
            Ok(())
        } else {
            Err(BudgetExceeded {
                bytes,
                direction,
                limit,
            })
        }
    }

    /// Checks that bytes are left in both directions, for a request and its answer.
    ///
    /// # Errors
    /// Returns [`BudgetExceeded`] if none are left in one of them.
    pub(crate) fn check_both(&self) -> Result<(), BudgetExceeded> {
        self.check(true).and(self.check(false))
    }

    /// Charges transferred bytes; returns how long to wait before transferring more.
    pub(super) fn charge(&self, bytes: u64, up: bool) -> Duration {
        let used = if up { &self.up } else { &self.down };
        used.fetch_add(bytes, Ordering::Relaxed);
        self.rate
            .as_ref()
            .map_or(Duration::ZERO, |rate| rate.consume(bytes))
    }
}

/// A byte limit of the policy is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of {bytes} bytes {direction} is reached; raise `{limit}` in the policy's limits"
)]
pub(crate) struct BudgetExceeded {
    bytes: u64,
    direction: &'static str,
    limit: &'static str,
}

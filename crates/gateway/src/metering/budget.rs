use std::sync::atomic::{AtomicU64, Ordering};

use super::rate::Rate;
use crate::policy::NetworkLimits;

/// What a guest may use in all, and has.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: NetworkLimits,
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
    pub(super) bytes: Option<Rate>,
}

impl Budget {
    pub(crate) fn new(limits: NetworkLimits) -> Self {
        Self {
            limits,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            bytes: limits.bytes_per_s.map(Rate::new),
        }
    }

    /// One that is never used up.
    pub(crate) fn unlimited() -> Self {
        Self::new(NetworkLimits {
            bytes_up: u64::MAX,
            bytes_down: u64::MAX,
            bytes_per_s: None,
            ..NetworkLimits::default()
        })
    }

    /// Bytes from the guest, and to it.
    pub(crate) fn used(&self) -> (u64, u64) {
        (
            self.up.load(Ordering::Relaxed),
            self.down.load(Ordering::Relaxed),
        )
    }

    /// Whether more bytes may go, from the guest (`up`) or to it.
    ///
    /// # Errors
    /// [`Spent`].
    pub(super) fn afford(&self, up: bool) -> Result<(), Spent> {
        let ((used_up, used_down), limits) = (self.used(), &self.limits);
        let (used, bytes, direction, limit) = match up {
            true => (used_up, limits.bytes_up, "from the guest", "bytes_up"),
            false => (used_down, limits.bytes_down, "to the guest", "bytes_down"),
        };
        match used < bytes {
            true => Ok(()),
            false => Err(Spent {
                bytes,
                direction,
                limit,
            }),
        }
    }

    /// Whether a question may be sent, and its answer be read.
    ///
    /// # Errors
    /// [`Spent`].
    pub(crate) fn afford_both(&self) -> Result<(), Spent> {
        self.afford(true).and(self.afford(false))
    }
}

/// The budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes {direction} are used up; raise `{limit}` in the policy's limits")]
pub(crate) struct Spent {
    bytes: u64,
    direction: &'static str,
    limit: &'static str,
}

//! The memory that requests and answers may take while they are in transit, for each owner and in total.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::sync::lock;

/// Maximum size of the requests and answers of one key, in bytes: eight of the largest JSON bodies.
pub(crate) const MAX_BYTES_PER_KEY: usize = 64 * 1024 * 1024;

/// Maximum size of all requests and answers, in bytes.
pub(crate) const MAX_BYTES: usize = 256 * 1024 * 1024;

/// The bytes in transit. A [`Charge`] counts as long as it lives.
#[derive(Debug, Default)]
pub(crate) struct MemoryBudget {
    usage: Mutex<Usage>,
    /// Notified when a charge has ended.
    released: Notify,
}

#[derive(Debug, Default)]
struct Usage {
    total: usize,
    by_owner: HashMap<Owner, usize>,
}

impl MemoryBudget {
    /// Returns how many bytes are counted.
    pub(crate) fn total(&self) -> usize {
        lock(&self.usage).total
    }
}

/// The part of the budget that one owner has.
#[derive(Debug, Clone)]
pub(crate) struct Quota {
    budget: Arc<MemoryBudget>,
    owner: Owner,
}

impl Quota {
    pub(crate) fn new(budget: &Arc<MemoryBudget>, owner: &Owner) -> Self {
        Self {
            budget: budget.clone(),
            owner: owner.clone(),
        }
    }

    /// Counts `bytes`.
    ///
    /// # Errors
    /// [`ApiErrorKind::Busy`] if this owner, or all owners together, would then exceed the budget.
    pub(crate) fn charge(&self, bytes: usize) -> Result<Charge, ApiError> {
        let mut charge = Charge {
            quota: self.clone(),
            bytes: 0,
        };
        charge.grow(bytes)?;

        Ok(charge)
    }

    /// Counts `bytes` as soon as the budget allows. More than the whole budget counts as all of it.
    pub(crate) async fn wait_for(&self, bytes: usize) -> Charge {
        let bytes = bytes.min(max_bytes(&self.owner));

        loop {
            let released = self.budget.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();

            if let Ok(charge) = self.charge(bytes) {
                return charge;
            }
            released.await;
        }
    }
}

/// Local callers are the user of this server: only the total bounds them.
fn max_bytes(owner: &Owner) -> usize {
    if owner.is_local() {
        MAX_BYTES
    } else {
        MAX_BYTES_PER_KEY
    }
}

/// Bytes that count until it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    quota: Quota,
    bytes: usize,
}

impl Charge {
    /// Counts `bytes` more.
    ///
    /// # Errors
    /// [`ApiErrorKind::Busy`] if the budget does not allow them. Bytes that were counted before still count.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let Quota { budget, owner } = &self.quota;
        let mut usage = lock(&budget.usage);
        let used = usage.by_owner.get(owner).copied().unwrap_or(0);

        let max = max_bytes(owner);
        if used + bytes > max || usage.total + bytes > MAX_BYTES {
            let whose = if used + bytes > max {
                "of this key"
            } else {
                "of all callers"
            };
            let message = format!(
                "requests and answers {whose} already take {} MiB of the server's memory; read the answers that are open, \
                 or retry later",
                max.min(MAX_BYTES) / (1024 * 1024)
            );
            return Err(ApiError::new(ApiErrorKind::Busy, message));
        }

        usage.total += bytes;
        *usage.by_owner.entry(owner.clone()).or_default() += bytes;
        self.bytes += bytes;

        Ok(())
    }
}

/// Returns these bytes, which keep `charge` until their last reference is dropped.
pub(crate) fn attach(bytes: Bytes, charge: &Arc<Charge>) -> Bytes {
    Bytes::from_owner(ChargedBytes {
        bytes,
        _charge: charge.clone(),
    })
}

impl Drop for Charge {
    fn drop(&mut self) {
        // A charge that was refused must not wake those who wait: they would try again without end.
        if self.bytes == 0 {
            return;
        }

        let Quota { budget, owner } = &self.quota;
        let mut usage = lock(&budget.usage);
        usage.total -= self.bytes;

        if let Some(used) = usage.by_owner.get_mut(owner) {
            *used -= self.bytes;
            if *used == 0 {
                usage.by_owner.remove(owner);
            }
        }

        drop(usage);
        budget.released.notify_waiters();
    }
}

struct ChargedBytes {
    bytes: Bytes,
    _charge: Arc<Charge>,
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_all_keys_together_are_bounded() {
        let budget = Arc::<MemoryBudget>::default();
        let quotas = ["a", "b", "c", "d", "e"].map(|key| Quota::new(&budget, &Owner::key(key)));

        let mut all = Vec::new();
        for quota in &quotas[..4] {
            let mut charge = quota.charge(1).unwrap();
            charge.grow(MAX_BYTES_PER_KEY - 1).unwrap();
            let error = charge.grow(1).unwrap_err();
            assert!(error.message.contains("of this key"), "{}", error.message);
            all.push(charge);
        }

        let error = quotas[4].charge(1).unwrap_err();
        assert_eq!(error.kind, ApiErrorKind::Busy);
        assert!(error.message.contains("all callers"), "{}", error.message);

        all.pop();
        quotas[4].charge(1).unwrap();
        drop(all);
        assert_eq!(budget.total(), 0);
        assert!(lock(&budget.usage).by_owner.is_empty());
    }

    #[tokio::test]
    async fn a_charge_lasts_as_long_as_its_bytes() {
        let budget = Arc::<MemoryBudget>::default();
        let quota = Quota::new(&budget, &Owner::key("a"));
        let charge = quota.charge(MAX_BYTES_PER_KEY).unwrap();
        let bytes = attach(Bytes::from_static(b"abc"), &Arc::new(charge));
        let part = bytes.slice(1..2);
        drop(bytes);

        let waiting = quota.wait_for(usize::MAX);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(part);
        assert_eq!(waiting.await.bytes, MAX_BYTES_PER_KEY);
        assert_eq!(budget.total(), 0);
    }
}

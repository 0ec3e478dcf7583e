//! The connections that several gateways may have together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections, lookups and listeners several guests may have at the same time: each costs descriptors of this
/// process. A budget can be a share of another one. Clones are the same budget.
#[derive(Debug, Clone, Default)]
pub struct ConnectionBudget {
    /// The budgets that count a connection, from the smallest share to the whole; none = no limit.
    levels: Vec<Arc<Level>>,
}

#[derive(Debug)]
struct Level {
    max: usize,
    /// Whose connections these are, for messages: `of this server`.
    whose: &'static str,
    open: AtomicUsize,
}

impl ConnectionBudget {
    /// Returns a budget of `max` connections that counts in this one, too. Messages call them the connections `whose`.
    #[must_use]
    pub fn share(&self, max: usize, whose: &'static str) -> Self {
        let level = Level {
            max,
            whose,
            open: AtomicUsize::new(0),
        };

        let levels = [Arc::new(level)].into_iter();
        Self {
            levels: levels.chain(self.levels.iter().cloned()).collect(),
        }
    }

    /// Returns how many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        let level = self.levels.first();
        level.map_or(0, |level| level.open.load(Ordering::Relaxed))
    }

    /// Counts a connection until the slot is dropped.
    ///
    /// # Errors
    /// Returns [`ConnectionsExhausted`] if the budget, or one that it is a share of, has none left.
    pub(crate) fn open_one(&self) -> Result<ConnectionSlot, ConnectionsExhausted> {
        let mut slot = ConnectionSlot(Vec::with_capacity(self.levels.len()));
        for level in &self.levels {
            // If this level is full, dropping the slot releases the levels before.
            let opened = level
                .open
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                    (open < level.max).then_some(open + 1)
                });
            if opened.is_err() {
                return Err(ConnectionsExhausted {
                    max: level.max,
                    whose: level.whose,
                });
            }
            slot.0.push(level.clone());
        }
        Ok(slot)
    }
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot(Vec<Arc<Level>>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        for level in &self.0 {
            level.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// No connection is left in a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {max} connections {whose} are all in use; close some, or connect to fewer hosts at the same time"
)]
pub(crate) struct ConnectionsExhausted {
    max: usize,
    whose: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_in_the_whole() {
        let whole = ConnectionBudget::default().share(3, "of this server");
        let shares = [(); 2].map(|()| whole.share(2, "of this key"));

        let first = shares[0].open_one().unwrap();
        let _second = shares[0].open_one().unwrap();
        let error = shares[0].open_one().unwrap_err().to_string();
        assert!(error.contains("2 connections of this key"), "{error}");

        let third = shares[1].open_one().unwrap();
        let error = shares[1].open_one().unwrap_err().to_string();
        assert!(error.contains("3 connections of this server"), "{error}");
        assert_eq!((whole.open(), shares[1].open()), (3, 1));

        drop(first);
        let _fourth = shares[1].open_one().unwrap();
        drop(third);
        assert_eq!(
            (whole.open(), shares[0].open(), shares[1].open()),
            (2, 1, 1)
        );

        let unlimited = ConnectionBudget::default();
        assert!(unlimited.open_one().is_ok());
    }
}

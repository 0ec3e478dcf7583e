//! Checks of every response, for clauses without a separate check.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// A violation that was seen in passing, with the transcript up to it.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) text: String,
    pub(crate) transcript: Vec<String>,
}

/// Collects, for all connections, which clauses were observed and which of them were violated.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    observed: BTreeSet<&'static str>,
    /// The first violation of each clause.
    violations: BTreeMap<&'static str, Violation>,
}

impl Monitor {
    /// Notes that a response was such that this clause applies to it.
    pub(crate) fn observe(&self, clause: &'static str) {
        self.lock().observed.insert(clause);
    }

    /// Notes a violation. Only the first of each clause is kept.
    pub(crate) fn violate(&self, clause: &'static str, text: String, transcript: Vec<String>) {
        let violation = Violation { text, transcript };
        self.lock().violations.entry(clause).or_insert(violation);
    }

    pub(crate) fn was_observed(&self, clause: &str) -> bool {
        self.lock().observed.contains(clause)
    }

    pub(crate) fn violation(&self, clause: &str) -> Option<Violation> {
        self.lock().violations.get(clause).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The memory that the outputs and events of one owner's runs take.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::owner::Owner;

/// Maximum size of the outputs and events of one key's runs, in bytes. One run may hold some 50 MiB; of the runs that have ended,
/// half of this is kept.
const MAX_BYTES_PER_KEY: usize = 256 * 1024 * 1024;

/// The same for local callers, who may have eight times as many runs.
const MAX_LOCAL_BYTES: usize = 1024 * 1024 * 1024;

/// The size of the outputs and events of one owner's runs. Once they take too much, further output is counted and not kept, and
/// fewer events are kept.
#[derive(Debug)]
pub(crate) struct HeldOutput {
    bytes: AtomicUsize,
    max: usize,
}

impl Default for HeldOutput {
    /// Without a maximum.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl HeldOutput {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            max,
        }
    }

    pub(crate) fn of(owner: &Owner) -> Self {
        Self::new(if owner.is_local() {
            MAX_LOCAL_BYTES
        } else {
            MAX_BYTES_PER_KEY
        })
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether no more may be kept.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() >= self.max
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

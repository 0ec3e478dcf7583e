use std::sync::Arc;

use crate::network::{PreparedNetwork, SavedNetwork};
use crate::provision::MemoryReservation;
use crate::snapshot::Snapshot;

/// The saved state of a sandbox. It stays in this host's memory while this value, or a sandbox that was started from
/// it, exists. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshot: Snapshot,
    network: Option<SavedNetwork>,
    /// The state takes as much of the host's memory as a VM.
    _reservation: MemoryReservation,
}

impl Checkpoint {
    pub(crate) fn new(
        snapshot: Snapshot,
        network: Option<SavedNetwork>,
        reservation: MemoryReservation,
    ) -> Self {
        Self(Arc::new(Inner {
            snapshot,
            network,
            _reservation: reservation,
        }))
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot
    }

    /// Prepares a network like that of the sandbox.
    pub(crate) fn network(&self) -> Option<PreparedNetwork> {
        self.0.network.as_ref().map(SavedNetwork::prepare)
    }

    /// Returns the memory that the state takes, in bytes: the pages of the guest that are not empty.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.snapshot.bytes()
    }
}

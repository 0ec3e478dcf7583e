use std::sync::Arc;

use crate::network::{PreparedNetwork, SavedNetwork};
use crate::provision::MemoryReservation;
use crate::snapshot::{RunningPrograms, Snapshot};

/// The saved state of a sandbox. It stays in this host's memory while this value, or a sandbox that was started from
/// it, exists. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshot: Snapshot,
    network: Option<SavedNetwork>,
    programs: RunningPrograms,
    /// The state takes as much of the host's memory as a VM.
    _reservation: MemoryReservation,
}

impl Checkpoint {
    pub(crate) fn new(
        snapshot: Snapshot,
        network: Option<SavedNetwork>,
        programs: RunningPrograms,
        reservation: MemoryReservation,
    ) -> Self {
        Self(Arc::new(Inner {
            snapshot,
            network,
            programs,
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

    /// Returns the programs that ran when the state was saved, and continue in each sandbox that is started from it.
    #[must_use]
    pub fn running_programs(&self) -> &RunningPrograms {
        &self.0.programs
    }

    /// Returns the memory that the state takes, in bytes: the pages of the guest that are not empty.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.snapshot.bytes()
    }
}

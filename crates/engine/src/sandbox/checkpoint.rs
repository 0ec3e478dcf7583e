use std::sync::Arc;

use crate::agent::GuestInit;
use crate::network::{PreparedNetwork, SavedNetwork};
use crate::packages::InstalledPackage;
use crate::provision::{MemoryReservation, Provisioner};
use crate::snapshot::{RunningPrograms, Snapshot};

/// The saved state of a sandbox. It stays in this host's memory while this value, or a sandbox that was started from
/// it, exists; [`save`](Self::save) writes it to disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshot: Snapshot,
    network: Option<SavedNetwork>,
    programs: RunningPrograms,
    origin: CheckpointOrigin,
    /// What guests that start from it get besides their identities.
    init: GuestInit,
    provisioner: Arc<Provisioner>,
    /// The state takes as much of the host's memory as a VM.
    _reservation: MemoryReservation,
}

/// The parts of a sandbox that a checkpoint records.
#[derive(Debug, Clone, Default)]
pub(crate) struct CheckpointOrigin {
    /// Machine id and host name.
    pub(crate) identity: (String, String),
    pub(crate) packages: Vec<InstalledPackage>,
}

impl Checkpoint {
    pub(crate) fn new(
        snapshot: Snapshot,
        network: Option<SavedNetwork>,
        programs: RunningPrograms,
        origin: CheckpointOrigin,
        init: GuestInit,
        provisioner: Arc<Provisioner>,
        reservation: MemoryReservation,
    ) -> Self {
        Self(Arc::new(Inner {
            snapshot,
            network,
            programs,
            origin,
            init,
            provisioner,
            _reservation: reservation,
        }))
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot
    }

    pub(crate) fn origin(&self) -> &CheckpointOrigin {
        &self.0.origin
    }

    pub(crate) fn init(&self) -> &GuestInit {
        &self.0.init
    }

    pub(crate) fn provisioner(&self) -> &Arc<Provisioner> {
        &self.0.provisioner
    }

    pub(crate) fn saved_network(&self) -> Option<&SavedNetwork> {
        self.0.network.as_ref()
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

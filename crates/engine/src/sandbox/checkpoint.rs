use std::sync::Arc;

use crate::network::{Prepared, Saved};
use crate::provision::Place;
use crate::snapshot::Snapshot;

/// The saved state of a sandbox, kept in this host's memory for as long as this, or a sandbox that began
/// from it, is there. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    snapshot: Snapshot,
    network: Option<Saved>,
    /// Its memory counts as that of a VM.
    _place: Place,
}

impl Checkpoint {
    pub(crate) fn new(snapshot: Snapshot, network: Option<Saved>, place: Place) -> Self {
        Self(Arc::new(Kept {
            snapshot,
            network,
            _place: place,
        }))
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot
    }

    /// A network like the one that the sandbox had.
    pub(crate) fn network(&self) -> Option<Prepared> {
        self.0.network.as_ref().map(Saved::prepare)
    }

    /// Bytes of memory that it takes: those of the guest that hold anything.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.snapshot.bytes()
    }
}

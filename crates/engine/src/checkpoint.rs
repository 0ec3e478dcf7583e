use std::sync::Arc;

use crate::admission::Place;
use crate::snapshot::Snapshot;

/// The saved state of a sandbox, kept in this host's memory for as long as this, or a sandbox that began
/// from it, is there. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    snapshot: Snapshot,
    /// Its memory counts as that of a VM.
    _place: Place,
}

impl Checkpoint {
    pub(crate) fn new(snapshot: Snapshot, place: Place) -> Self {
        Self(Arc::new(Kept {
            snapshot,
            _place: place,
        }))
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot
    }

    /// Bytes of memory that it takes: those of the guest that hold anything.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.snapshot.bytes()
    }
}

//! Signals to the open requests of a key that the key was revoked.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio_util::sync::CancellationToken;

use crate::owner::Owner;
use crate::sync::lock;

/// One signal for each key that has requests in flight, or had some.
#[derive(Debug, Default)]
pub(crate) struct Revocations(Mutex<HashMap<Owner, CancellationToken>>);

impl Revocations {
    /// Returns the signal of this owner. That of the local user is never given.
    pub(crate) fn of(&self, owner: &Owner) -> CancellationToken {
        lock(&self.0).entry(owner.clone()).or_default().clone()
    }

    /// Gives the signal of this owner.
    pub(crate) fn signal(&self, owner: &Owner) {
        if let Some(token) = lock(&self.0).remove(owner) {
            token.cancel();
        }
    }
}

use fumehood_protocol::{ChangeKind, Response};

use super::sandbox::Sandbox;
use crate::agent::{Operation, OperationEvent};
use crate::error::Error;
use crate::vm::Busy;

/// Changes of files as they happen. Dropping it ends that.
#[derive(Debug)]
pub struct Watcher {
    operation: Operation,
    sandbox: Sandbox,
    _busy: Busy,
}

impl Watcher {
    pub(crate) fn new(operation: Operation, sandbox: Sandbox, busy: Busy) -> Self {
        Self {
            operation,
            sandbox,
            _busy: busy,
        }
    }

    /// The next change, and where: below the path that is watched, empty for that itself. `None`: what was
    /// watched is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    pub async fn next(&mut self) -> Result<Option<(ChangeKind, String)>, Error> {
        match self.operation.next().await {
            Ok(OperationEvent::Item(Response::Change(change), _)) => {
                Ok(Some((change.kind, change.path)))
            }
            Ok(OperationEvent::Answer(Response::Done(_))) => Ok(None),
            Ok(other) => Err(self.sandbox.odd(&other)),
            Err(error) => Err(self.sandbox.broken(error).await),
        }
    }
}

use fumehood_protocol::{ChangeKind, Response};

use super::sandbox::Sandbox;
use crate::agent::{Operation, OperationEvent};
use crate::error::Error;
use crate::vm::ActivityGuard;

/// Reports changes of files. Dropping it stops that. Created by [`Files::watch`](crate::Files::watch).
#[derive(Debug)]
pub struct Watcher {
    operation: Operation,
    sandbox: Sandbox,
    _guard: ActivityGuard,
}

impl Watcher {
    pub(crate) fn new(operation: Operation, sandbox: Sandbox, guard: ActivityGuard) -> Self {
        Self {
            operation,
            sandbox,
            _guard: guard,
        }
    }

    /// Returns the next change and its path, relative to the watched path and empty for that path itself. `None`: the
    /// watched path does not exist any more.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    pub async fn next(&mut self) -> Result<Option<(ChangeKind, String)>, Error> {
        match self.operation.next().await {
            Ok(OperationEvent::Item(Response::Change(change), _)) => {
                Ok(Some((change.kind, change.path)))
            }
            Ok(OperationEvent::Answer(Response::Done(_))) => Ok(None),
            Ok(other) => Err(self.sandbox.unexpected_answer(&other)),
            Err(error) => Err(self.sandbox.connection_error(error).await),
        }
    }
}

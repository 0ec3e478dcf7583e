use bytes::Bytes;
use fumehood_protocol::{ActionTag, GuestPath, ReadFile, Request, Response, Stream, Transferred};

use super::sandbox::Sandbox;
use super::stall_timer::{Patience, STALL};
use crate::agent::{Operation, OperationEvent};
use crate::error::Error;
use crate::vm::Busy;

/// A file of a guest that is being read. See [`Files::reading`](crate::Files::reading).
#[derive(Debug)]
pub struct FileReader {
    sandbox: Sandbox,
    operation: Operation,
    patience: Patience,
    /// The most that may come.
    len: Option<u64>,
    _busy: Busy,
}

impl FileReader {
    pub(crate) fn begin(
        sandbox: &Sandbox,
        path: GuestPath,
        offset: u64,
        len: Option<u64>,
    ) -> Result<Self, Error> {
        let (operation, busy) = sandbox.operate(None, |op_id, credit| {
            Request::ReadFile(ReadFile {
                action: ActionTag,
                op_id: Some(op_id),
                path,
                offset: Some(offset).filter(|offset| *offset > 0),
                len,
                credit: Some(credit),
            })
        })?;
        Ok(Self {
            sandbox: sandbox.clone(),
            operation,
            patience: Patience::default(),
            len,
            _busy: busy,
        })
    }

    /// The next bytes, of which there is at least one; `None` when all of them have come and were the right
    /// ones. Whoever waits makes the guest wait.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), with [`Error::io_kind`];
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost); [`ErrorKind::Protocol`](crate::ErrorKind::Protocol).
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let operation = &mut self.operation;
        let next = self.sandbox.next(operation, STALL);
        match self.patience.wait(next).await? {
            OperationEvent::Output(Stream::File, bytes) => {
                self.patience.came(bytes.len());
                operation.used();
                let came = operation.arrived().file.bytes;
                if self.len.is_some_and(|len| came > len) {
                    let what = "more bytes of a file than were asked for";
                    return Err(self.sandbox.violated(what.into()));
                }
                Ok(Some(bytes))
            }
            OperationEvent::Answer(Response::Transferred(Transferred {
                bytes, crc32c, ..
            })) => {
                let came = operation.arrived().file;
                if (came.bytes, came.crc32c) == (bytes, crc32c) {
                    return Ok(None);
                }
                let what = format!(
                    "{} bytes of a file arrived; it says it sent {bytes}, or other ones",
                    came.bytes
                );
                Err(self.sandbox.violated(what))
            }
            other => Err(self.sandbox.odd(&other)),
        }
    }
}

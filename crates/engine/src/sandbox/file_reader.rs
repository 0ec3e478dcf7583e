use bytes::Bytes;
use fumehood_protocol::{ActionTag, GuestPath, ReadFile, Request, Response, Stream, Transferred};

use super::sandbox::Sandbox;
use super::stall_timer::{STALL_TIMEOUT, StallTimer};
use crate::agent::{Operation, OperationEvent};
use crate::error::Error;
use crate::vm::ActivityGuard;

/// Reads a file of a guest piece by piece. Created by [`Files::open_reader`](crate::Files::open_reader).
#[derive(Debug)]
pub struct FileReader {
    sandbox: Sandbox,
    operation: Operation,
    stall_timer: StallTimer,
    /// Maximum number of bytes that the guest may send.
    max_len: Option<u64>,
    _guard: ActivityGuard,
}

impl FileReader {
    pub(crate) fn open(
        sandbox: &Sandbox,
        path: GuestPath,
        offset: u64,
        len: Option<u64>,
    ) -> Result<Self, Error> {
        let (operation, guard) = sandbox.start_operation(None, |op_id, credit| {
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
            stall_timer: StallTimer::default(),
            max_len: len,
            _guard: guard,
        })
    }

    /// Returns the next bytes, at least one; `None` when the file is complete and its checksum is correct. A slow
    /// caller slows down the guest.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with [`Error::io_kind`],
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost) or [`ErrorKind::Protocol`](crate::ErrorKind::Protocol).
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let operation = &mut self.operation;
        let next = self.sandbox.next(operation, STALL_TIMEOUT);
        match self.stall_timer.wait(next).await? {
            OperationEvent::Output(Stream::File, bytes) => {
                self.stall_timer.record_bytes(bytes.len());
                operation.return_credit();
                let received = operation.received().file.bytes;

                if self.max_len.is_some_and(|max| received > max) {
                    let what = "more bytes of a file than requested";
                    return Err(self.sandbox.protocol_violation(what.into()));
                }

                Ok(Some(bytes))
            }
            OperationEvent::Answer(Response::Transferred(Transferred {
                bytes, crc32c, ..
            })) => {
                // The guest has finished: compare length and checksum.
                let received = operation.received().file;
                if (received.bytes, received.crc32c) == (bytes, crc32c) {
                    return Ok(None);
                }

                let what = format!(
                    "received {} bytes of a file; the guest sent {bytes}, or other ones",
                    received.bytes
                );

                Err(self.sandbox.protocol_violation(what))
            }
            other => Err(self.sandbox.unexpected_answer(&other)),
        }
    }
}

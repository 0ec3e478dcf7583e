use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use fumehood_protocol::{
    ActionTag, Cancel, Complete, Credit, Detach, InputData, OpId, Request, Resize, SendSignal,
    SignalName, Stream, StreamSummary, encode_line,
};
use tokio::sync::{Semaphore, mpsc};

use super::routes::{ChannelError, FRAME_BYTES, OperationEvent, SharedRoutes, lock};
use super::writer::Outgoing;

pub(super) type Writer = mpsc::UnboundedSender<Outgoing>;

/// One operation in progress. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(super) id: OpId,
    pub(super) events: mpsc::UnboundedReceiver<Result<OperationEvent, ChannelError>>,
    pub(super) window: u64,
    /// Bytes taken by the caller and not yet returned to the guest as credit.
    pub(super) taken: u64,
    pub(super) received: ReceivedStreams,
    /// The output was received from its beginning.
    pub(super) is_whole: bool,
    /// The operation has ended, or does not continue in the guest.
    pub(super) is_over: bool,
    pub(super) input: InputSender,
    pub(super) routes: SharedRoutes,
    pub(super) writer: Writer,
}

/// What was received of each stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReceivedStreams {
    pub(crate) stdout: StreamSummary,
    pub(crate) stderr: StreamSummary,
    pub(crate) results: StreamSummary,
    pub(crate) file: StreamSummary,
}

/// Sends input to an operation.
#[derive(Debug, Clone)]
pub(crate) struct InputSender {
    pub(super) id: OpId,
    pub(super) credit: Arc<Semaphore>,
    pub(super) unwritten: Arc<AtomicUsize>,
    pub(super) writer: Writer,
}

impl InputSender {
    /// Sends bytes as fast as the guest takes them. Returns `false` if the operation has ended.
    pub(crate) async fn send(&self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let max = usize::try_from(FRAME_BYTES).unwrap_or(usize::MAX);
            let frame = bytes.split_to(bytes.len().min(max));

            // Wait for the guest's credit; each byte uses one permit up.
            let permits = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            let Ok(permit) = self.credit.acquire_many(permits).await else {
                return false;
            };
            permit.forget();

            let line = frame_line(self.id, frame.len(), false);
            self.unwritten.fetch_add(frame.len(), Ordering::Relaxed);

            if self.writer.send(Outgoing::Frame(line, frame)).is_err() {
                return false;
            }
        }

        true
    }

    /// Sends the end of the input.
    pub(crate) fn end(&self) {
        let line = frame_line(self.id, 0, true);
        let _ = self.writer.send(Outgoing::Line(line));
    }
}

/// Encodes the line before a frame of input.
pub(super) fn frame_line(op_id: OpId, len: usize, eof: bool) -> Vec<u8> {
    encode_line(&Request::Data(InputData {
        action: ActionTag,
        op_id,
        len: len as u64,
        eof,
    }))
}

impl Operation {
    /// Returns the next event. `Complete`, `Refused` and errors are the last ones.
    ///
    /// # Errors
    /// Returns [`ChannelError`] if the connection has ended.
    pub(crate) async fn next(&mut self) -> Result<OperationEvent, ChannelError> {
        let event = self
            .events
            .recv()
            .await
            .unwrap_or(Err(ChannelError::Closed))?;

        self.is_over |= matches!(
            event,
            OperationEvent::Complete(_)
                | OperationEvent::Refused(_)
                | OperationEvent::Detached
                | OperationEvent::Answer(_)
                | OperationEvent::Quiesced(_)
                | OperationEvent::Refreshed
                | OperationEvent::Pong
        );

        // Keep the accounts that the reader checks the guest against.
        match &event {
            OperationEvent::Output(stream, bytes) => {
                self.taken += bytes.len() as u64;
                let summary = match stream {
                    Stream::Stdout => &mut self.received.stdout,
                    Stream::Stderr => &mut self.received.stderr,
                    Stream::Result => &mut self.received.results,
                    Stream::File => &mut self.received.file,
                };

                summary.bytes += bytes.len() as u64;
                summary.crc32c = crc32c::crc32c_append(summary.crc32c, bytes);
                if let Some(route) = lock(&self.routes).open.get_mut(&self.id) {
                    route.waiting -= 1;
                }
            }
            OperationEvent::Item(_, bytes) => {
                if let Some(route) = lock(&self.routes).open.get_mut(&self.id) {
                    route.item_bytes = route.item_bytes.saturating_sub(*bytes);
                    route.overflows &= route.item_bytes > 0;
                }
            }
            OperationEvent::Attached(attached) => self.is_whole &= attached.seq == 0,
            OperationEvent::Complete(complete) if self.is_whole => self.verify(complete)?,
            _ => {}
        }

        Ok(event)
    }

    /// Returns summaries of the received streams.
    pub(crate) fn received(&self) -> &ReceivedStreams {
        &self.received
    }

    /// Returns the sender of the operation's input.
    pub(crate) fn input(&self) -> &InputSender {
        &self.input
    }

    /// Compares the agent's summaries of the sent streams with those of the received ones.
    fn verify(&self, complete: &Complete) -> Result<(), ChannelError> {
        let streams = [
            ("stdout", complete.stdout, self.received.stdout),
            ("stderr", complete.stderr, self.received.stderr),
            ("results", complete.results, self.received.results),
        ];

        for (name, sent, received) in streams {
            if sent != received {
                let (sent, received) = (sent.bytes, received.bytes);
                let what = format!(
                    "received {received} bytes of {name}; the agent sent {sent}, or other ones"
                );
                return Err(self.protocol_violation(what));
            }
        }

        Ok(())
    }

    /// Ends the connection because the guest violated the protocol.
    pub(crate) fn protocol_violation(&self, what: String) -> ChannelError {
        let error = ChannelError::Violation(what);
        lock(&self.routes).end(error.clone());
        error
    }

    /// Allows the guest to send as much output as was taken. To be called when that output has been used; until then
    /// the program in the guest waits.
    pub(crate) fn return_credit(&mut self) {
        // Half a window at a time: a credit for each chunk would double the number of messages.
        if self.taken < self.window / 2 {
            return;
        }

        let bytes = std::mem::take(&mut self.taken);
        if let Some(route) = lock(&self.routes).open.get_mut(&self.id) {
            route.window += bytes;
        }

        let credit = encode_line(&Request::Credit(Credit {
            action: ActionTag,
            op_id: self.id,
            bytes,
        }));

        // Counted: a guest that sends output forever and never reads would make these lines pile up.
        let unwritten = &self.input.unwritten;
        unwritten.fetch_add(credit.len(), Ordering::Relaxed);
        let _ = self.writer.send(Outgoing::Credit(credit));
    }

    /// Asks the guest to end the operation, which then still reports its end.
    pub(crate) fn cancel(&self) {
        self.send(&Request::Cancel(Cancel {
            action: ActionTag,
            op_id: self.id,
        }));
    }

    /// Sends a signal to the operation's process group.
    pub(crate) fn signal(&self, signal: i32) {
        self.send(&Request::Signal(SendSignal {
            action: ActionTag,
            op_id: self.id,
            signal: SignalName::Number(signal),
        }));
    }

    /// Resizes the operation's terminal.
    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        self.send(&Request::Resize(Resize {
            action: ActionTag,
            op_id: self.id,
            rows,
            cols,
        }));
    }

    /// Asks the guest to continue the operation without this client; `Detached` confirms that.
    pub(crate) fn detach(&self) {
        self.send(&Request::Detach(Detach {
            action: ActionTag,
            op_id: self.id,
        }));
    }

    fn send(&self, request: &Request) {
        let _ = self.writer.send(Outgoing::Line(encode_line(request)));
    }
}

impl Drop for Operation {
    /// An operation without a client must not continue in the guest.
    fn drop(&mut self) {
        lock(&self.routes).open.remove(&self.id);
        if !self.is_over {
            self.cancel();
        }
    }
}

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
    /// Bytes taken by the caller and not yet given back to the guest as credit.
    pub(super) taken: u64,
    pub(super) received: ReceivedStreams,
    /// Its output has been heard from the beginning.
    pub(super) is_whole: bool,
    /// It has told its end, and does not go on in the guest.
    pub(super) is_over: bool,
    pub(super) input: InputSender,
    pub(super) routes: SharedRoutes,
    pub(super) writer: Writer,
}

/// What has arrived of each stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReceivedStreams {
    pub(crate) stdout: StreamSummary,
    pub(crate) stderr: StreamSummary,
    pub(crate) results: StreamSummary,
    pub(crate) file: StreamSummary,
}

/// The way of input to an operation.
#[derive(Debug, Clone)]
pub(crate) struct InputSender {
    pub(super) id: OpId,
    pub(super) credit: Arc<Semaphore>,
    pub(super) unwritten: Arc<AtomicUsize>,
    pub(super) writer: Writer,
}

impl InputSender {
    /// Sends bytes as the guest takes them. `false`: the operation has ended.
    pub(crate) async fn send(&self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let most = usize::try_from(FRAME_BYTES).unwrap_or(usize::MAX);
            let piece = bytes.split_to(bytes.len().min(most));
            let permits = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let Ok(permit) = self.credit.acquire_many(permits).await else {
                return false;
            };
            permit.forget();
            let line = frame_line(self.id, piece.len(), false);
            self.unwritten.fetch_add(piece.len(), Ordering::Relaxed);
            if self.writer.send(Outgoing::Frame(line, piece)).is_err() {
                return false;
            }
        }
        true
    }

    /// Nothing follows.
    pub(crate) fn end(&self) {
        let line = frame_line(self.id, 0, true);
        let _ = self.writer.send(Outgoing::Line(line));
    }
}

/// The line before a frame of input.
pub(super) fn frame_line(op_id: OpId, len: usize, eof: bool) -> Vec<u8> {
    encode_line(&Request::Data(InputData {
        action: ActionTag,
        op_id,
        len: len as u64,
        eof,
    }))
}

impl Operation {
    /// What it tells next. After `Complete`, `Refused` or an error it tells nothing more.
    ///
    /// # Errors
    /// [`ChannelError`]: the conversation is over.
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
                | OperationEvent::Quiesced
                | OperationEvent::Refreshed
                | OperationEvent::Pong
        );
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

    /// What arrived so far.
    pub(crate) fn received(&self) -> &ReceivedStreams {
        &self.received
    }

    /// The way of its input.
    pub(crate) fn input(&self) -> &InputSender {
        &self.input
    }

    /// What the agent says that it sent is what arrived.
    fn verify(&self, complete: &Complete) -> Result<(), ChannelError> {
        let streams = [
            ("stdout", complete.stdout, self.received.stdout),
            ("stderr", complete.stderr, self.received.stderr),
            ("results", complete.results, self.received.results),
        ];
        for (name, said, received) in streams {
            if said != received {
                let (said, received) = (said.bytes, received.bytes);
                let what = format!(
                    "{name} arrived as {received} bytes; the agent says it sent {said}, or other ones"
                );
                return Err(self.protocol_violation(what));
            }
        }
        Ok(())
    }

    /// The guest broke the protocol, and is listened to no more.
    pub(crate) fn protocol_violation(&self, what: String) -> ChannelError {
        let error = ChannelError::Violation(what);
        lock(&self.routes).end(error.clone());
        error
    }

    /// Lets the guest send as much as has been taken. Call it when the output taken so far is used:
    /// a caller that does not makes the program in the guest wait.
    pub(crate) fn return_credit(&mut self) {
        // Half a window at a time: a credit for each chunk would double the messages.
        if self.taken >= self.window / 2 {
            let bytes = std::mem::take(&mut self.taken);
            if let Some(route) = lock(&self.routes).open.get_mut(&self.id) {
                route.window += bytes;
            }
            let credit = encode_line(&Request::Credit(Credit {
                action: ActionTag,
                op_id: self.id,
                bytes,
            }));
            // A guest that reads none of it and sends output for ever would have it pile up.
            let unwritten = &self.input.unwritten;
            unwritten.fetch_add(credit.len(), Ordering::Relaxed);
            let _ = self.writer.send(Outgoing::Credit(credit));
        }
    }

    /// Asks the guest to end it. It still tells its end.
    pub(crate) fn cancel(&self) {
        self.send(&Request::Cancel(Cancel {
            action: ActionTag,
            op_id: self.id,
        }));
    }

    /// Sends a signal to its process group.
    pub(crate) fn signal(&self, signal: i32) {
        self.send(&Request::Signal(SendSignal {
            action: ActionTag,
            op_id: self.id,
            signal: SignalName::Number(signal),
        }));
    }

    /// Gives its terminal another size.
    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        self.send(&Request::Resize(Resize {
            action: ActionTag,
            op_id: self.id,
            rows,
            cols,
        }));
    }

    /// Leaves it to itself; it tells that by `Detached`.
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
    /// Nobody follows it any more: it must not go on in the guest.
    fn drop(&mut self) {
        lock(&self.routes).open.remove(&self.id);
        if !self.is_over {
            self.cancel();
        }
    }
}

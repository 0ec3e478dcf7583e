use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use fumehood_protocol::{
    Attached, Change, ChangeKind, Data, Decoder, Item, OpId, Response, Stream,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;

use super::routes::{ChannelError, FRAME_BYTES, LINE_BYTES, OperationEvent, SharedRoutes, lock};

/// Maximum number of pieces of output of one operation that wait to be taken: tiny ones must not cost a hundred times
/// their size. A program that writes a byte every 50 ms reaches this in half an hour.
const MAX_WAITING_PIECES: usize = 32 * 1024;

/// Size of one read from the socket, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Cost of an answer besides its message, in bytes.
const ITEM_OVERHEAD_BYTES: usize = 64;
/// Maximum cost of the answers of one operation that wait to be taken, in bytes. A listing of ten thousand files takes
/// 2 MB.
const MAX_ITEM_BYTES: usize = 16 * 1024 * 1024;

/// Maximum input and credit that a guest may leave unread while it sends credit and output itself, in bytes: 64
/// operations at once have 16 MiB in flight.
const MAX_UNWRITTEN_BYTES: usize = 32 * 1024 * 1024;

/// Maximum credit for input that an agent can give, in bytes: far more than any agent does.
const MAX_CREDIT_BYTES: usize = 16 * 1024 * 1024;

/// Maximum bytes that an operation may still send after its client left: more than its window of output, a listing and
/// the agent's queue together.
const MAX_LATE_BYTES: u64 = 4 * 1024 * 1024;

/// Counts messages for operations without a client: they may have been in flight when the client left.
struct LateMessages {
    /// The id of the next operation.
    next: Arc<AtomicU64>,
    bytes: u64,
}

impl LateMessages {
    /// Accepts a message of an operation that is not open. The operation must have been started, and all such messages
    /// together must not exceed the maximum that the started operations can have in flight.
    fn accept(&mut self, id: Option<OpId>, bytes: usize) -> Result<(), String> {
        let id = id.ok_or("a message without an operation")?.get();
        let next = self.next.load(Ordering::Relaxed);
        if !(1..next).contains(&id) {
            return Err(format!(
                "a message of operation {id}, which was not started"
            ));
        }

        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes > next.saturating_mul(MAX_LATE_BYTES) {
            return Err(format!(
                "{} bytes of operations that have ended",
                self.bytes
            ));
        }

        Ok(())
    }
}

/// Reads what an agent sends. All of it is hostile until checked.
pub(crate) struct Reader {
    routes: SharedRoutes,
    /// Bytes of input and credit that the guest has not read yet.
    unwritten: Arc<AtomicUsize>,
    late: LateMessages,
    /// Length of the current line, in bytes.
    line_bytes: usize,
    decoder: Decoder,
    /// The announced raw frame whose bytes come next.
    frame: Option<Data>,
}

impl Reader {
    /// Creates a reader. `next` is the id of the next operation.
    pub(crate) fn new(
        routes: SharedRoutes,
        unwritten: Arc<AtomicUsize>,
        next: Arc<AtomicU64>,
    ) -> Self {
        Self {
            routes,
            unwritten,
            late: LateMessages { next, bytes: 0 },
            line_bytes: 0,
            decoder: Decoder::new(LINE_BYTES),
            frame: None,
        }
    }

    /// Reads until the socket is closed or the guest violates the protocol.
    pub(crate) async fn run(mut self, mut source: OwnedReadHalf) {
        let mut buffer = vec![0; READ_BYTES];
        let error = loop {
            let n = match source.read(&mut buffer).await {
                Ok(0) | Err(_) => break ChannelError::Closed,
                Ok(n) => n,
            };

            if let Err(violation) = self.process(&buffer[..n]) {
                break ChannelError::Violation(violation);
            }
        };

        lock(&self.routes).end(error);
    }

    fn process(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(item) = self.decoder.decode(&mut bytes) {
            match item {
                Item::Line(line) => self.line(&line)?,
                Item::Raw(bytes) => {
                    if let Some(Data {
                        op_id, stream, seq, ..
                    }) = self.frame.take()
                    {
                        self.output(op_id, stream, Some(seq), bytes)?;
                    }
                }
                Item::TooLong { limit } => {
                    return Err(format!("a line of more than {limit} bytes"));
                }
            }
        }

        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        self.line_bytes = line.len();
        match Response::parse(line).map_err(|error| error.message)? {
            // Output.
            Response::Stdout(output) => {
                let bytes = output.chunk.into_bytes();
                self.output(output.op_id, Stream::Stdout, output.seq, bytes)
            }
            Response::Stderr(output) => {
                let bytes = output.chunk.into_bytes();
                self.output(output.op_id, Stream::Stderr, output.seq, bytes)
            }
            Response::Result(_) | Response::File(_) => {
                Err("text output, although raw frames were agreed on".into())
            }
            Response::Data(data) => self.announce_frame(data),

            // The end of an operation.
            Response::Complete(complete) => {
                self.last(complete.op_id, OperationEvent::Complete(complete))
            }
            Response::Error(refusal) => self.last(refusal.op_id, OperationEvent::Refused(refusal)),
            Response::Quiesced(quiesced) => {
                self.last(quiesced.op_id, OperationEvent::Quiesced(quiesced))
            }
            Response::Refreshed(refreshed) => self.last(refreshed.op_id, OperationEvent::Refreshed),
            Response::Pong(pong) => self.last(pong.op_id, OperationEvent::Pong),
            Response::Detached(detached) => self.last(detached.op_id, OperationEvent::Detached),

            // Its progress.
            Response::Started(started) => {
                self.item(started.op_id, OperationEvent::Started(started.pid))
            }
            Response::Queued(queued) => self.item(queued.op_id, OperationEvent::Queued),
            Response::Credit(credit) => self.credit(credit.op_id, credit.bytes),
            Response::Attached(attached) => self.attached(attached),
            Response::Hello(_) => Err("an answer without a request".into()),
            other => self.answer(other),
        }
    }

    /// Prepares to read a raw frame.
    fn announce_frame(&mut self, data: Data) -> Result<(), String> {
        if !(1..=FRAME_BYTES).contains(&data.len) {
            return Err(format!(
                "a frame of {} bytes; 1 to {FRAME_BYTES} are allowed",
                data.len
            ));
        }

        // At most 64 Ki, so it fits.
        let len = usize::try_from(data.len).unwrap_or(0);
        self.decoder.expect_raw(len);
        self.frame = Some(data);

        Ok(())
    }

    /// Forwards an answer of another type.
    fn answer(&mut self, response: Response) -> Result<(), String> {
        let (id, is_last) = match &response {
            Response::Entries(entries) => (entries.op_id, entries.last),
            Response::Change(change) => (change.op_id, false),
            Response::Watching(watching) => (watching.op_id, false),
            Response::Processes(processes) => (processes.op_id, true),
            Response::Entry(entry) => (entry.op_id, true),
            Response::Done(done) => (done.op_id, true),
            Response::Transferred(transferred) => (transferred.op_id, true),
            _ => return Err("an answer of an unknown type".into()),
        };

        if is_last {
            self.last(id, OperationEvent::Answer(response))
        } else {
            let bytes = self.line_bytes + ITEM_OVERHEAD_BYTES;
            self.item(id, OperationEvent::Item(response, bytes))
        }
    }

    /// Forwards an event that is not the last one of its operation.
    fn item(&mut self, id: Option<OpId>, event: OperationEvent) -> Result<(), String> {
        let mut routes = lock(&self.routes);
        let Some(route) = id.and_then(|id| routes.open.get_mut(&id)) else {
            return self.late.accept(id, self.line_bytes);
        };

        let bytes = match &event {
            OperationEvent::Item(_, bytes) => *bytes,
            _ => ITEM_OVERHEAD_BYTES,
        };

        // Programs may change files faster than a caller reads the changes: that is not a violation.
        if let OperationEvent::Item(Response::Change(change), _) = &event
            && route.item_bytes + bytes > MAX_ITEM_BYTES / 2
        {
            if !std::mem::replace(&mut route.overflows, true) {
                let overflow = Response::Change(Change {
                    op_id: change.op_id,
                    kind: ChangeKind::Overflow,
                    path: String::new(),
                });
                let _ = route.sender.send(Ok(OperationEvent::Item(overflow, 0)));
            }

            return Ok(());
        }

        route.item_bytes += bytes;
        if route.item_bytes > MAX_ITEM_BYTES {
            return Err(format!("more than {MAX_ITEM_BYTES} bytes of answers"));
        }

        let _ = route.sender.send(Ok(event));

        Ok(())
    }

    fn attached(&mut self, attached: Attached) -> Result<(), String> {
        let id = attached.op_id;
        if let Some(id) = id
            && let Some(route) = lock(&self.routes).open.get_mut(&id)
        {
            if route.next_seq != 0 || route.waiting != 0 {
                return Err("an attachment in the middle of an operation".into());
            }

            if let Some(credit) = attached.input_credit {
                // Input that was sent before counts as well.
                let available = route.input.available_permits();
                route.input.forget_permits(available);
                let credit = usize::try_from(credit).unwrap_or(usize::MAX);
                route.input.add_permits(credit.min(MAX_CREDIT_BYTES));
            }

            route.next_seq = attached.seq;
        }

        self.item(id, OperationEvent::Attached(attached))
    }

    /// Allows an operation's client to send more input.
    fn credit(&mut self, id: Option<OpId>, bytes: u64) -> Result<(), String> {
        let routes = lock(&self.routes);
        let Some(route) = id.and_then(|id| routes.open.get(&id)) else {
            return self.late.accept(id, self.line_bytes);
        };

        if bytes == 0 {
            return Err("credit of 0 bytes".into());
        }

        // The sum of all credit must stay plausible.
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let available = route.input.available_permits();
        if bytes > MAX_CREDIT_BYTES - available.min(MAX_CREDIT_BYTES) {
            return Err(format!(
                "credit for more than {MAX_CREDIT_BYTES} bytes of input"
            ));
        }

        let unwritten = self.unwritten.load(Ordering::Relaxed);
        if unwritten > MAX_UNWRITTEN_BYTES {
            return Err(format!(
                "credit for input, while {unwritten} bytes of it are unread"
            ));
        }

        route.input.add_permits(bytes);

        Ok(())
    }

    fn output(
        &mut self,
        id: Option<OpId>,
        stream: Stream,
        seq: Option<u64>,
        bytes: Vec<u8>,
    ) -> Result<(), String> {
        let mut routes = lock(&self.routes);
        let Some(route) = id.and_then(|id| routes.open.get_mut(&id)) else {
            return self.late.accept(id, bytes.len());
        };

        // The piece is the next one, and not empty.
        if seq != Some(route.next_seq) {
            return Err(format!(
                "output number {seq:?}; expected {}",
                route.next_seq
            ));
        }

        route.next_seq = route.next_seq.wrapping_add(1);
        if bytes.is_empty() {
            return Err("an empty piece of output".into());
        }

        // The guest keeps to its limits.
        route.waiting += 1;
        if route.waiting > MAX_WAITING_PIECES {
            return Err(format!(
                "more than {MAX_WAITING_PIECES} pieces of output at once"
            ));
        }

        let unwritten = self.unwritten.load(Ordering::Relaxed);
        if unwritten > MAX_UNWRITTEN_BYTES {
            return Err(format!("output, while {unwritten} bytes are unread"));
        }

        let len = bytes.len() as u64;
        route.window = route
            .window
            .checked_sub(len)
            .ok_or("more output than its credit allows")?;

        let event = OperationEvent::Output(stream, bytes.into());
        let _ = route.sender.send(Ok(event));

        Ok(())
    }

    /// Forwards the last event of an operation.
    fn last(&mut self, id: Option<OpId>, event: OperationEvent) -> Result<(), String> {
        let Some(route) = id.and_then(|id| lock(&self.routes).open.remove(&id)) else {
            return self.late.accept(id, self.line_bytes);
        };
        let _ = route.sender.send(Ok(event));
        Ok(())
    }
}

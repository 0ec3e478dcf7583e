use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use fumehood_protocol::{
    Attached, Change, ChangeKind, Data, Decoder, Item, OpId, Response, Stream,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;

use super::routes::{ChannelError, FRAME_BYTES, LINE_BYTES, OperationEvent, SharedRoutes, lock};

/// Pieces of output of one operation that may wait to be taken: tiny ones must not cost a hundred
/// times their size. A program that writes a byte every 50 ms fills this in half an hour.
const WAITING_PIECES: usize = 32 * 1024;

/// One read from the socket, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Answers of one operation beside its output that may wait to be taken: what each costs at least, and all
/// together at most, in bytes. A listing of ten thousand files takes 2 MB.
const ITEM_BYTES: usize = 64;
const ITEMS_BYTES: usize = 16 * 1024 * 1024;

/// Input and credit that a guest leaves unread, in bytes, above which its own credit and output are not honest: 64
/// operations at once have 16 MiB on their way.
const UNWRITTEN_BYTES: usize = 32 * 1024 * 1024;

/// Credit for input that an agent can give at most, in bytes: far more than any does.
const CREDIT_BYTES: usize = 16 * 1024 * 1024;

/// What an operation may still send when nobody follows it any more, in bytes: more than its window of output, a
/// listing and the agent's queue together.
const LATE_BYTES: u64 = 4 * 1024 * 1024;

/// What comes for operations that nobody follows any more: they may have been given up while it was on its way.
struct LateMessages {
    /// The number of the next operation.
    next: Arc<AtomicU64>,
    bytes: u64,
}

impl LateMessages {
    /// Lets a message of an operation that is not open pass: it must belong to one that was begun, and all of them
    /// together must not be more than those can have left to say.
    fn take(&mut self, id: Option<OpId>, bytes: usize) -> Result<(), String> {
        let id = id.ok_or("a message that belongs to no operation")?.get();
        let next = self.next.load(Ordering::Relaxed);
        if !(1..next).contains(&id) {
            return Err(format!("a message of operation {id}, which was not begun"));
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes > next.saturating_mul(LATE_BYTES) {
            return Err(format!(
                "{} bytes of operations that have ended",
                self.bytes
            ));
        }
        Ok(())
    }
}

/// Reads what an agent sends. Everything in it is hostile until checked.
pub(crate) struct Reader {
    routes: SharedRoutes,
    /// Bytes of input and credit that the guest has not read yet.
    unwritten: Arc<AtomicUsize>,
    late: LateMessages,
    /// Bytes of the line that is being looked at.
    line_bytes: usize,
    decoder: Decoder,
    /// The announced raw frame whose bytes come next.
    frame: Option<Data>,
}

impl Reader {
    /// `next`: the number that the next operation gets.
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

    /// Until nothing more comes, or the guest breaks the protocol.
    pub(crate) async fn run(mut self, mut source: OwnedReadHalf) {
        let mut buffer = vec![0; READ_BYTES];
        let error = loop {
            let n = match source.read(&mut buffer).await {
                Ok(0) | Err(_) => break ChannelError::Closed,
                Ok(n) => n,
            };
            if let Err(violation) = self.take(&buffer[..n]) {
                break ChannelError::Violation(violation);
            }
        };
        lock(&self.routes).end(error);
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(item) = self.decoder.decode(&mut bytes) {
            match item {
                Item::Line(line) => self.line(&line)?,
                Item::Raw(bytes) => {
                    let Some(Data {
                        op_id, stream, seq, ..
                    }) = self.frame.take()
                    else {
                        continue;
                    };
                    self.output(op_id, stream, Some(seq), bytes)?;
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
            Response::Stdout(output) => self.output(
                output.op_id,
                Stream::Stdout,
                output.seq,
                output.chunk.into_bytes(),
            ),
            Response::Stderr(output) => self.output(
                output.op_id,
                Stream::Stderr,
                output.seq,
                output.chunk.into_bytes(),
            ),
            Response::Result(_) | Response::File(_) => {
                Err("text, where raw frames were agreed on".into())
            }
            Response::Data(data) => {
                if !(1..=FRAME_BYTES).contains(&data.len) {
                    return Err(format!(
                        "a frame of {} bytes; 1 to {FRAME_BYTES} are allowed",
                        data.len
                    ));
                }
                // At most 64 Ki, so it fits.
                self.decoder
                    .expect_raw(usize::try_from(data.len).unwrap_or(0));
                self.frame = Some(data);
                Ok(())
            }
            Response::Complete(complete) => {
                self.last(complete.op_id, OperationEvent::Complete(complete))
            }
            Response::Error(refusal) => self.last(refusal.op_id, OperationEvent::Refused(refusal)),
            Response::Quiesced(quiesced) => self.last(quiesced.op_id, OperationEvent::Quiesced),
            Response::Refreshed(refreshed) => self.last(refreshed.op_id, OperationEvent::Refreshed),
            Response::Pong(pong) => self.last(pong.op_id, OperationEvent::Pong),
            Response::Started(started) => {
                self.item(started.op_id, OperationEvent::Started(started.pid))
            }
            Response::Queued(queued) => self.item(queued.op_id, OperationEvent::Queued),
            Response::Credit(credit) => self.credit(credit.op_id, credit.bytes),
            Response::Detached(detached) => self.last(detached.op_id, OperationEvent::Detached),
            Response::Attached(attached) => self.attached(attached),
            Response::Hello(_) => Err("an answer to a question that was not asked".into()),
            other => self.answer(other),
        }
    }

    /// Passes on an answer of some other kind.
    fn answer(&mut self, response: Response) -> Result<(), String> {
        let (id, is_last) = match &response {
            Response::Entries(entries) => (entries.op_id, entries.last),
            Response::Change(change) => (change.op_id, false),
            Response::Watching(watching) => (watching.op_id, false),
            Response::Processes(processes) => (processes.op_id, true),
            Response::Entry(entry) => (entry.op_id, true),
            Response::Done(done) => (done.op_id, true),
            Response::Transferred(transferred) => (transferred.op_id, true),
            _ => return Err("an answer of no known kind".into()),
        };
        if is_last {
            self.last(id, OperationEvent::Answer(response))
        } else {
            self.item(
                id,
                OperationEvent::Item(response, self.line_bytes + ITEM_BYTES),
            )
        }
    }

    /// Passes on what ends nothing.
    fn item(&mut self, id: Option<OpId>, event: OperationEvent) -> Result<(), String> {
        let mut routes = lock(&self.routes);
        let Some(route) = id.and_then(|id| routes.open.get_mut(&id)) else {
            return self.late.take(id, self.line_bytes);
        };
        let bytes = match &event {
            OperationEvent::Item(_, bytes) => *bytes,
            _ => ITEM_BYTES,
        };
        // Changes come as fast as programs make them, which is no fault of the guest's.
        if let OperationEvent::Item(Response::Change(change), _) = &event
            && route.item_bytes + bytes > ITEMS_BYTES / 2
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
        if route.item_bytes > ITEMS_BYTES {
            return Err(format!("more than {ITEMS_BYTES} bytes of answers"));
        }
        let _ = route.sender.send(Ok(event));
        Ok(())
    }

    fn attached(&mut self, attached: Attached) -> Result<(), String> {
        let id = attached.op_id;
        if let Some(route) = id.and_then(|id| {
            lock(&self.routes).open.get_mut(&id).map(|r| {
                let is_first = r.next_seq == 0 && r.waiting == 0;
                if let Some(credit) = attached.input_credit {
                    // What was sent before counts as well.
                    r.input.forget_permits(r.input.available_permits());
                    let credit = usize::try_from(credit).unwrap_or(usize::MAX);
                    r.input.add_permits(credit.min(CREDIT_BYTES));
                }
                r.next_seq = attached.seq;
                is_first
            })
        }) && !route
        {
            return Err("attached in the middle of an operation".into());
        }
        self.item(id, OperationEvent::Attached(attached))
    }

    /// More input may be sent.
    fn credit(&mut self, id: Option<OpId>, bytes: u64) -> Result<(), String> {
        let routes = lock(&self.routes);
        let Some(route) = id.and_then(|id| routes.open.get(&id)) else {
            return self.late.take(id, self.line_bytes);
        };
        if bytes == 0 {
            return Err("credit for nothing".into());
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let there = route.input.available_permits();
        if bytes > CREDIT_BYTES - there.min(CREDIT_BYTES) {
            return Err(format!(
                "credit for more than {CREDIT_BYTES} bytes of input"
            ));
        }
        let unwritten = self.unwritten.load(Ordering::Relaxed);
        if unwritten > UNWRITTEN_BYTES {
            return Err(format!(
                "credit for input, while {unwritten} bytes of it are left unread"
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
            return self.late.take(id, bytes.len());
        };
        if seq != Some(route.next_seq) {
            return Err(format!(
                "output number {seq:?} where {} was due",
                route.next_seq
            ));
        }
        route.next_seq = route.next_seq.wrapping_add(1);
        if bytes.is_empty() {
            return Err("an empty piece of output".into());
        }
        route.waiting += 1;
        if route.waiting > WAITING_PIECES {
            return Err(format!(
                "more than {WAITING_PIECES} pieces of output at once"
            ));
        }
        let unwritten = self.unwritten.load(Ordering::Relaxed);
        if unwritten > UNWRITTEN_BYTES {
            return Err(format!("output, while {unwritten} bytes are left unread"));
        }
        let len = bytes.len() as u64;
        route.window = route
            .window
            .checked_sub(len)
            .ok_or("more output than it was allowed to send")?;
        let _ = route
            .sender
            .send(Ok(OperationEvent::Output(stream, bytes.into())));
        Ok(())
    }

    /// Passes on what ends an operation.
    fn last(&mut self, id: Option<OpId>, event: OperationEvent) -> Result<(), String> {
        let Some(route) = id.and_then(|id| lock(&self.routes).open.remove(&id)) else {
            return self.late.take(id, self.line_bytes);
        };
        let _ = route.sender.send(Ok(event));
        Ok(())
    }
}

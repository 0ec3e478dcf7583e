use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fumehood_protocol::{
    Cancel, Complete, Credit, Data, Decoder, ErrorMessage, FEATURE_CANCEL, FEATURE_CONTEXTS,
    FEATURE_CREDIT, FEATURE_RAW_FRAMES, FEATURE_REFRESH, Item, OpId, Request, Response, Stream,
    StreamSummary, Tag, encode_line,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What a channel wants of an agent.
pub(crate) const FEATURES: [&str; 5] = [
    FEATURE_RAW_FRAMES,
    FEATURE_CREDIT,
    FEATURE_CANCEL,
    FEATURE_CONTEXTS,
    FEATURE_REFRESH,
];

/// The longest line taken from an agent, in bytes: a 64 KiB chunk with every byte escaped to six,
/// and room beside it.
pub(crate) const LINE_BYTES: usize = 512 * 1024;

/// The longest raw frame taken from an agent, in bytes.
const FRAME_BYTES: u64 = 64 * 1024;

/// Output of one operation that may be on its way or waiting to be taken, in bytes. Bounds what a
/// guest can make this host hold; large enough that a fast reader never makes it wait.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// Pieces of output of one operation that may wait to be taken: tiny ones must not cost a hundred
/// times their size. A program that writes a byte every 50 ms fills this in half an hour.
const WAITING_PIECES: usize = 32 * 1024;

/// One read from the socket, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Why a conversation with an agent ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The other side is gone.
    #[error("the connection to the guest's agent ended")]
    Closed,
    /// The guest broke the protocol: it is hostile or damaged, and is not listened to any more.
    #[error("the guest broke the protocol: {0}")]
    Violation(String),
    /// No answer in time.
    #[error("the guest's agent did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

/// What an operation tells.
#[derive(Debug)]
pub(crate) enum OperationEvent {
    Output(Stream, Bytes),
    Complete(Complete),
    Refused(ErrorMessage),
    Quiesced,
    Refreshed,
    Pong,
}

type Sender = mpsc::UnboundedSender<Result<OperationEvent, ChannelError>>;

/// What the router knows of one operation. All of it is checked against what the guest sends.
#[derive(Debug)]
struct Route {
    sender: Sender,
    /// Bytes that the guest may still send.
    window: u64,
    next_seq: u64,
    /// Pieces of output that wait to be taken.
    waiting: usize,
}

#[derive(Debug, Default)]
struct Routes {
    open: HashMap<OpId, Route>,
    /// Set once: nothing is heard any more.
    ended: Option<ChannelError>,
}

type SharedRoutes = Arc<Mutex<Routes>>;

fn lock(routes: &SharedRoutes) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A conversation with one agent: many operations at once, each bounded.
#[derive(Debug)]
pub(crate) struct Channel {
    routes: SharedRoutes,
    writer: mpsc::UnboundedSender<Vec<u8>>,
    next_id: AtomicU64,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Channel {
    /// Takes a socket on which the agent has been greeted with [`FEATURES`].
    pub(crate) fn new(socket: UnixStream) -> Self {
        let (source, sink) = socket.into_split();
        let (writer, outbox) = mpsc::unbounded_channel();
        let routes = SharedRoutes::default();
        let reader = Reader {
            routes: routes.clone(),
            decoder: Decoder::new(LINE_BYTES),
            frame: None,
        };
        let tasks = [
            tokio::spawn(reader.run(source)),
            tokio::spawn(write(sink, outbox)),
        ];
        Self {
            routes,
            writer,
            next_id: AtomicU64::new(1),
            tasks,
        }
    }

    /// Starts an operation: `request` makes it, given its id and the bytes of output that it may send.
    pub(crate) fn operate(&self, request: impl FnOnce(OpId, u64) -> Request) -> Operation {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let id = OpId::try_from(id % OpId::MAX)
            .unwrap_or_else(|_| unreachable!("a remainder is below its divisor"));
        let (sender, events) = mpsc::unbounded_channel();
        let mut routes = lock(&self.routes);
        if let Some(error) = &routes.ended {
            let _ = sender.send(Err(error.clone()));
        } else {
            let route = Route {
                sender,
                window: WINDOW_BYTES,
                next_seq: 0,
                waiting: 0,
            };
            routes.open.insert(id, route);
        }
        drop(routes);
        self.send(&request(id, WINDOW_BYTES));
        Operation {
            id,
            events,
            taken: 0,
            stdout: StreamSummary::default(),
            stderr: StreamSummary::default(),
            routes: self.routes.clone(),
            writer: self.writer.clone(),
        }
    }

    /// Whether the guest is still listened to.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.routes).ended.is_none()
    }

    /// Asks for something that has one answer and no output, and waits for it.
    ///
    /// # Errors
    /// [`ChannelError`]; a refusal is an event.
    pub(crate) async fn ask(
        &self,
        request: impl FnOnce(OpId) -> Request,
        deadline: Duration,
    ) -> Result<OperationEvent, ChannelError> {
        let mut operation = self.operate(|id, _| request(id));
        tokio::time::timeout(deadline, operation.next())
            .await
            .map_err(|_| ChannelError::Silent(deadline))?
    }

    fn send(&self, request: &Request) {
        // A writer that is gone shows in the routes.
        let _ = self.writer.send(encode_line(request));
    }
}

/// One operation in progress. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Operation {
    id: OpId,
    events: mpsc::UnboundedReceiver<Result<OperationEvent, ChannelError>>,
    /// Bytes taken by the caller and not yet given back to the guest as credit.
    taken: u64,
    stdout: StreamSummary,
    stderr: StreamSummary,
    routes: SharedRoutes,
    writer: mpsc::UnboundedSender<Vec<u8>>,
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
        match &event {
            OperationEvent::Output(stream, bytes) => {
                self.taken += bytes.len() as u64;
                let summary = match stream {
                    Stream::Stdout => &mut self.stdout,
                    _ => &mut self.stderr,
                };
                summary.bytes += bytes.len() as u64;
                summary.crc32c = crc32c::crc32c_append(summary.crc32c, bytes);
                if let Some(route) = lock(&self.routes).open.get_mut(&self.id) {
                    route.waiting -= 1;
                }
            }
            OperationEvent::Complete(complete) => self.verify(complete)?,
            OperationEvent::Refused(_)
            | OperationEvent::Quiesced
            | OperationEvent::Refreshed
            | OperationEvent::Pong => {}
        }
        Ok(event)
    }

    /// What arrived of standard output and standard error so far.
    pub(crate) fn arrived(&self) -> (StreamSummary, StreamSummary) {
        (self.stdout, self.stderr)
    }

    /// What the agent says that it sent is what arrived.
    fn verify(&self, complete: &Complete) -> Result<(), ChannelError> {
        let streams = [
            ("stdout", complete.stdout, self.stdout),
            ("stderr", complete.stderr, self.stderr),
        ];
        for (name, said, arrived) in streams {
            if said != arrived {
                let (said, arrived) = (said.bytes, arrived.bytes);
                let what = format!(
                    "{name} arrived as {arrived} bytes; the agent says it sent {said}, or other ones"
                );
                return Err(ChannelError::Violation(what));
            }
        }
        Ok(())
    }

    /// Lets the guest send as much as has been taken. Call it when the output taken so far is used:
    /// a caller that does not makes the program in the guest wait.
    pub(crate) fn used(&mut self) {
        // Half a window at a time: a credit for each chunk would double the messages.
        if self.taken >= WINDOW_BYTES / 2 {
            let bytes = std::mem::take(&mut self.taken);
            if let Some(route) = lock(&self.routes).open.get_mut(&self.id) {
                route.window += bytes;
            }
            self.send(&Request::Credit(Credit {
                action: Tag,
                op_id: self.id,
                bytes,
            }));
        }
    }

    /// Asks the guest to end it. It still tells its end.
    pub(crate) fn cancel(&self) {
        self.send(&Request::Cancel(Cancel {
            action: Tag,
            op_id: self.id,
        }));
    }

    fn send(&self, request: &Request) {
        let _ = self.writer.send(encode_line(request));
    }
}

impl Drop for Operation {
    /// Nobody follows it any more: it must not go on in the guest.
    fn drop(&mut self) {
        if lock(&self.routes).open.remove(&self.id).is_some() {
            self.cancel();
        }
    }
}

async fn write(mut sink: OwnedWriteHalf, mut outbox: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(line) = outbox.recv().await {
        if sink.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Reads what an agent sends. Everything in it is hostile until checked.
struct Reader {
    routes: SharedRoutes,
    decoder: Decoder,
    /// The announced raw frame whose bytes come next.
    frame: Option<Data>,
}

impl Reader {
    async fn run(mut self, mut source: OwnedReadHalf) {
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
        let mut routes = lock(&self.routes);
        for (_, route) in routes.open.drain() {
            let _ = route.sender.send(Err(error.clone()));
        }
        routes.ended = Some(error);
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
            _ => Err("an answer to a question that was not asked".into()),
        }
    }

    fn output(
        &self,
        id: Option<OpId>,
        stream: Stream,
        seq: Option<u64>,
        bytes: Vec<u8>,
    ) -> Result<(), String> {
        let mut routes = lock(&self.routes);
        let Some(route) = id.and_then(|id| routes.open.get_mut(&id)) else {
            // Output of an operation that was forgotten meanwhile.
            return known_before(id);
        };
        if seq != Some(route.next_seq) {
            return Err(format!(
                "output number {seq:?} where {} was due",
                route.next_seq
            ));
        }
        route.next_seq += 1;
        if bytes.is_empty() {
            return Err("an empty piece of output".into());
        }
        route.waiting += 1;
        if route.waiting > WAITING_PIECES {
            return Err(format!(
                "more than {WAITING_PIECES} pieces of output at once"
            ));
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
    fn last(&self, id: Option<OpId>, event: OperationEvent) -> Result<(), String> {
        let Some(route) = id.and_then(|id| lock(&self.routes).open.remove(&id)) else {
            return known_before(id);
        };
        let _ = route.sender.send(Ok(event));
        Ok(())
    }
}

/// A message for an operation that is not open: late, if it has an id, else nobody's.
fn known_before(id: Option<OpId>) -> Result<(), String> {
    if id.is_some() {
        Ok(())
    } else {
        Err("a message that belongs to no operation".into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// Plays an agent that answers the first line with `script`.
    fn agent(script: Vec<u8>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut lines = BufReader::new(reader).lines();
            lines.next_line().await.unwrap();
            let _ = writer.write_all(&script).await;
            while let Ok(Some(_)) = lines.next_line().await {}
        });
        ours
    }

    async fn events(script: Vec<u8>) -> (Vec<OperationEvent>, Option<ChannelError>) {
        let channel = Channel::new(agent(script));
        let mut operation = channel.operate(|op_id, credit| {
            let mut exec = fumehood_protocol::Exec::new(fumehood_protocol::Language::Raw, "");
            (exec.op_id, exec.credit) = (Some(op_id), Some(credit));
            Request::Exec(exec)
        });
        let mut events = Vec::new();
        loop {
            match tokio::time::timeout(DEADLINE, operation.next())
                .await
                .unwrap()
            {
                Ok(event @ OperationEvent::Output(..)) => events.push(event),
                Ok(event) => {
                    events.push(event);
                    return (events, None);
                }
                Err(error) => return (events, Some(error)),
            }
        }
    }

    fn complete(bytes: u64, crc32c: u32) -> String {
        format!(
            r#"{{"type":"complete","op_id":1,"exit_code":0,"execution_time_ms":1,"ended_by":"exited","stdout":{{"bytes":{bytes},"crc32c":{crc32c}}}}}"#
        ) + "\n"
    }

    #[tokio::test]
    async fn frames_and_chunks_come_out_byte_exact() {
        let mut script = b"{\"type\":\"data\",\"op_id\":1,\"stream\":\"stdout\",\"seq\":0,\"len\":3}\n\xff\n\x00".to_vec();
        script.extend(b"{\"type\":\"stdout\",\"op_id\":1,\"seq\":1,\"chunk\":\"b\"}\n");
        script.extend(complete(4, crc32c::crc32c(b"\xff\n\x00b")).bytes());
        let (events, error) = events(script).await;
        assert_eq!(error, None);
        assert!(
            matches!(&events[0], OperationEvent::Output(Stream::Stdout, b) if &b[..] == b"\xff\n\x00")
        );
        assert_eq!(events.len(), 3);
    }

    #[tokio::test]
    async fn what_a_hostile_agent_sends_ends_the_conversation() {
        let frame = |len: u64| {
            format!(r#"{{"type":"data","op_id":1,"stream":"stdout","seq":0,"len":{len}}}"#) + "\n"
        };
        let long_line = format!("{}\n", "x".repeat(LINE_BYTES + 1));
        let flood: String = (0..20)
            .map(|seq| {
                format!(
                    r#"{{"type":"stdout","op_id":1,"seq":{seq},"chunk":"{}"}}"#,
                    "x".repeat(64 * 1024)
                ) + "\n"
            })
            .collect();
        let cases = [
            ("a wrong checksum", complete(0, 7)),
            ("a wrong length", complete(5, 0)),
            ("a huge frame", frame(FRAME_BYTES + 1)),
            ("an empty frame", frame(0)),
            (
                "a number left out",
                "{\"type\":\"stdout\",\"op_id\":1,\"seq\":1,\"chunk\":\"b\"}\n".into(),
            ),
            (
                "no number",
                "{\"type\":\"stdout\",\"op_id\":1,\"chunk\":\"b\"}\n".into(),
            ),
            (
                "an empty piece",
                "{\"type\":\"stdout\",\"op_id\":1,\"seq\":0,\"chunk\":\"\"}\n".into(),
            ),
            (
                "nobody's message",
                "{\"type\":\"stdout\",\"chunk\":\"b\"}\n".into(),
            ),
            (
                "a pong unasked",
                "{\"type\":\"pong\",\"version\":\"0\"}\n".into(),
            ),
            ("no JSON", "hello\n".into()),
            ("deep JSON", "[".repeat(100_000) + "\n"),
            ("a line too long", long_line),
            ("more than its credit", flood),
        ];
        for (what, script) in cases {
            let (_, error) = events(script.into_bytes()).await;
            assert!(
                matches!(error, Some(ChannelError::Violation(_))),
                "{what}: {error:?}"
            );
        }
    }

    #[tokio::test]
    async fn an_agent_that_goes_ends_every_operation() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours);
        let mut before = channel.operate(|op_id, _| Request::Cancel(Cancel { action: Tag, op_id }));
        drop(theirs);
        for operation in [
            &mut before,
            &mut channel.operate(|op_id, _| Request::Cancel(Cancel { action: Tag, op_id })),
        ] {
            let event = tokio::time::timeout(DEADLINE, operation.next())
                .await
                .unwrap();
            assert_eq!(event.unwrap_err(), ChannelError::Closed);
        }
    }
}

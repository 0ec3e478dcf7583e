use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fumehood_protocol::{
    ActionTag, Attached, Cancel, Complete, Credit, Detach, ErrorMessage, FEATURE_CANCEL,
    FEATURE_CONTEXTS, FEATURE_CREDIT, FEATURE_FILES, FEATURE_PROCESSES, FEATURE_RAW_FRAMES,
    FEATURE_REFRESH, InputData, OpId, Request, Resize, Response, SendSignal, SignalName, Stream,
    StreamSummary, encode_line,
};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::reader::Reader;
use super::writer::{Outgoing, write};

/// What a channel wants of an agent.
pub(crate) const FEATURES: [&str; 7] = [
    FEATURE_RAW_FRAMES,
    FEATURE_CREDIT,
    FEATURE_CANCEL,
    FEATURE_CONTEXTS,
    FEATURE_PROCESSES,
    FEATURE_FILES,
    FEATURE_REFRESH,
];

/// The longest line taken from an agent, in bytes: a 64 KiB chunk with every byte escaped to six,
/// and room beside it.
pub(crate) const LINE_BYTES: usize = 512 * 1024;

/// The longest raw frame, in bytes, in both directions.
pub(crate) const FRAME_BYTES: u64 = 64 * 1024;

/// Output of one operation that may be on its way or waiting to be taken, in bytes. Bounds what a
/// guest can make this host hold; large enough that a fast reader never makes it wait.
pub(crate) const WINDOW_BYTES: u64 = 1024 * 1024;

/// The same where the agent keeps output for who attaches again: no more is on its way than it keeps.
pub(crate) const KEPT_WINDOW_BYTES: u64 = 256 * 1024;

/// Input of one operation that may be on its way before the agent gives credit, in bytes: its default.
const INPUT_BYTES: usize = 256 * 1024;

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
    /// With its process id in the guest.
    Started(i32),
    Queued,
    Attached(Attached),
    /// More comes. With the bytes that it took.
    Item(Response, usize),
    Complete(Complete),
    Refused(ErrorMessage),
    Detached,
    /// Nothing more comes.
    Answer(Response),
    Quiesced,
    Refreshed,
    Pong,
}

pub(crate) type Sender = mpsc::UnboundedSender<Result<OperationEvent, ChannelError>>;

/// What the router knows of one operation. All of it is checked against what the guest sends.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) sender: Sender,
    /// Bytes that the guest may still send.
    pub(crate) window: u64,
    pub(crate) next_seq: u64,
    /// Pieces of output that wait to be taken.
    pub(crate) waiting: usize,
    /// Bytes of other answers that wait to be taken.
    pub(crate) item_bytes: usize,
    /// Bytes of input that may be sent.
    pub(crate) input: Arc<Semaphore>,
    /// Changes that came too fast were left out, and that was told.
    pub(crate) overflows: bool,
}

impl Drop for Route {
    /// Who waits to send input need not wait any more.
    fn drop(&mut self) {
        self.input.close();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) open: HashMap<OpId, Route>,
    /// Set once: nothing is heard any more.
    ended: watch::Sender<Option<ChannelError>>,
}

impl Routes {
    /// Nothing is heard any more, for this reason unless there is one already.
    pub(crate) fn end(&mut self, error: ChannelError) {
        for (_, route) in self.open.drain() {
            let _ = route.sender.send(Err(error.clone()));
        }
        if self.ended.borrow().is_none() {
            self.ended.send_replace(Some(error));
        }
    }
}

pub(crate) type SharedRoutes = Arc<Mutex<Routes>>;

pub(crate) fn lock(routes: &SharedRoutes) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A conversation with one agent: many operations at once, each bounded.
#[derive(Debug)]
pub(crate) struct Channel {
    routes: SharedRoutes,
    writer: Writer,
    next_id: Arc<AtomicU64>,
    /// Bytes of input and credit that were sent and not yet written.
    unwritten: Arc<AtomicUsize>,
    tasks: [JoinHandle<()>; 2],
}

type Writer = mpsc::UnboundedSender<Outgoing>;

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
        let unwritten = Arc::new(AtomicUsize::new(0));
        let next_id = Arc::new(AtomicU64::new(1));
        let reader = Reader::new(routes.clone(), unwritten.clone(), next_id.clone());
        let writing = write(sink, outbox, unwritten.clone());
        let tasks = [tokio::spawn(reader.run(source)), tokio::spawn(writing)];
        Self {
            routes,
            writer,
            next_id,
            unwritten,
            tasks,
        }
    }

    /// Waits until nothing is heard any more; returns why.
    pub(crate) async fn closed(&self) -> ChannelError {
        let mut ended = lock(&self.routes).ended.subscribe();
        let why = ended.wait_for(Option::is_some).await;
        why.ok()
            .and_then(|why| why.clone())
            .unwrap_or(ChannelError::Closed)
    }

    /// Starts an operation: `request` makes it, given its id and the bytes of output that it may send.
    pub(crate) fn operate(&self, request: impl FnOnce(OpId, u64) -> Request) -> Operation {
        self.operate_within(WINDOW_BYTES, None, request)
    }

    /// The same, with this window. `input`: all of its input, where that is at most a frame.
    pub(crate) fn operate_within(
        &self,
        window: u64,
        input: Option<Bytes>,
        request: impl FnOnce(OpId, u64) -> Request,
    ) -> Operation {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let id = OpId::try_from(id % OpId::MAX)
            .unwrap_or_else(|_| unreachable!("a remainder is below its divisor"));
        let (sender, events) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(INPUT_BYTES));
        let mut routes = lock(&self.routes);
        if let Some(error) = &*routes.ended.borrow() {
            let _ = sender.send(Err(error.clone()));
            credit.close();
        } else {
            let route = Route {
                sender,
                window,
                next_seq: 0,
                waiting: 0,
                item_bytes: 0,
                overflows: false,
                input: credit.clone(),
            };
            routes.open.insert(id, route);
        }
        drop(routes);
        let mut lines = encode_line(&request(id, window));
        let outgoing = match input {
            None => Outgoing::Line(lines),
            Some(bytes) => {
                self.unwritten.fetch_add(bytes.len(), Ordering::Relaxed);
                lines.extend(frame_line(id, bytes.len(), true));
                Outgoing::Frame(lines, bytes)
            }
        };
        // A writer that is gone shows in the routes.
        let _ = self.writer.send(outgoing);
        Operation {
            id,
            events,
            window,
            taken: 0,
            arrived: Arrived::default(),
            is_whole: true,
            is_over: false,
            input: InputLine {
                id,
                credit,
                unwritten: self.unwritten.clone(),
                writer: self.writer.clone(),
            },
            routes: self.routes.clone(),
            writer: self.writer.clone(),
        }
    }

    /// Whether the guest is still listened to.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.routes).ended.borrow().is_none()
    }

    /// The guest is listened to no more: it answered what nobody can have asked.
    pub(crate) fn end(&self, error: ChannelError) {
        lock(&self.routes).end(error);
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
}

/// One operation in progress. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Operation {
    id: OpId,
    events: mpsc::UnboundedReceiver<Result<OperationEvent, ChannelError>>,
    window: u64,
    /// Bytes taken by the caller and not yet given back to the guest as credit.
    taken: u64,
    arrived: Arrived,
    /// Its output has been heard from the beginning.
    is_whole: bool,
    /// It has told its end, and does not go on in the guest.
    is_over: bool,
    input: InputLine,
    routes: SharedRoutes,
    writer: Writer,
}

/// What has arrived of each stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) stdout: StreamSummary,
    pub(crate) stderr: StreamSummary,
    pub(crate) results: StreamSummary,
    pub(crate) file: StreamSummary,
}

/// The way of input to an operation.
#[derive(Debug, Clone)]
pub(crate) struct InputLine {
    id: OpId,
    credit: Arc<Semaphore>,
    unwritten: Arc<AtomicUsize>,
    writer: Writer,
}

impl InputLine {
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
fn frame_line(op_id: OpId, len: usize, eof: bool) -> Vec<u8> {
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
                    Stream::Stdout => &mut self.arrived.stdout,
                    Stream::Stderr => &mut self.arrived.stderr,
                    Stream::Result => &mut self.arrived.results,
                    Stream::File => &mut self.arrived.file,
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
    pub(crate) fn arrived(&self) -> &Arrived {
        &self.arrived
    }

    /// The way of its input.
    pub(crate) fn input(&self) -> &InputLine {
        &self.input
    }

    /// What the agent says that it sent is what arrived.
    fn verify(&self, complete: &Complete) -> Result<(), ChannelError> {
        let streams = [
            ("stdout", complete.stdout, self.arrived.stdout),
            ("stderr", complete.stderr, self.arrived.stderr),
            ("results", complete.results, self.arrived.results),
        ];
        for (name, said, arrived) in streams {
            if said != arrived {
                let (said, arrived) = (said.bytes, arrived.bytes);
                let what = format!(
                    "{name} arrived as {arrived} bytes; the agent says it sent {said}, or other ones"
                );
                return Err(self.violated(what));
            }
        }
        Ok(())
    }

    /// The guest broke the protocol, and is listened to no more.
    pub(crate) fn violated(&self, what: String) -> ChannelError {
        let error = ChannelError::Violation(what);
        lock(&self.routes).end(error.clone());
        error
    }

    /// Lets the guest send as much as has been taken. Call it when the output taken so far is used:
    /// a caller that does not makes the program in the guest wait.
    pub(crate) fn used(&mut self) {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

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
            let mut exec = fumehood_protocol::Exec::new(fumehood_protocol::Language::Shell, "");
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
        let mut before = channel.operate(|op_id, _| {
            Request::Cancel(Cancel {
                action: ActionTag,
                op_id,
            })
        });
        drop(theirs);
        for operation in [
            &mut before,
            &mut channel.operate(|op_id, _| {
                Request::Cancel(Cancel {
                    action: ActionTag,
                    op_id,
                })
            }),
        ] {
            let event = tokio::time::timeout(DEADLINE, operation.next())
                .await
                .unwrap();
            assert_eq!(event.unwrap_err(), ChannelError::Closed);
        }
    }
}

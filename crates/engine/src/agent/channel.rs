use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fumehood_protocol::{
    FEATURE_CANCEL, FEATURE_CONTEXTS, FEATURE_CREDIT, FEATURE_FILES, FEATURE_PROCESSES,
    FEATURE_RAW_FRAMES, FEATURE_REFRESH, OpId, Request, encode_line,
};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::operation::{InputSender, Operation, ReceivedStreams, Writer, frame_line};
use super::reader::Reader;
use super::routes::{ChannelError, OperationEvent, Route, SharedRoutes, WINDOW_BYTES, lock};
use super::writer::{Outgoing, write};

/// The features that a channel requires of an agent.
pub(crate) const FEATURES: [&str; 7] = [
    FEATURE_RAW_FRAMES,
    FEATURE_CREDIT,
    FEATURE_CANCEL,
    FEATURE_CONTEXTS,
    FEATURE_PROCESSES,
    FEATURE_FILES,
    FEATURE_REFRESH,
];

/// Input of one operation that may be in flight before the agent gives credit, in bytes: the protocol's default.
const INITIAL_INPUT_BYTES: usize = 256 * 1024;

/// The connection to one agent: many operations at once, each bounded.
#[derive(Debug)]
pub(crate) struct Channel {
    routes: SharedRoutes,
    writer: Writer,
    next_id: Arc<AtomicU64>,
    /// Bytes of input and credit that were sent and not yet written to the socket.
    unwritten: Arc<AtomicUsize>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Channel {
    /// Takes a socket whose agent has agreed to [`FEATURES`].
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

    /// Waits until the connection has ended; returns why.
    pub(crate) async fn closed(&self) -> ChannelError {
        let mut ended = lock(&self.routes).ended.subscribe();
        let reason = ended.wait_for(Option::is_some).await;
        reason
            .ok()
            .and_then(|reason| reason.clone())
            .unwrap_or(ChannelError::Closed)
    }

    /// Starts an operation. `request` creates the message from the operation's id and its window: the bytes of output
    /// that it may send.
    pub(crate) fn start_operation(&self, request: impl FnOnce(OpId, u64) -> Request) -> Operation {
        self.start_operation_with_window(WINDOW_BYTES, None, request)
    }

    /// Starts an operation with this window. `input` is all of its input, if that fits into one frame.
    pub(crate) fn start_operation_with_window(
        &self,
        window: u64,
        input: Option<Bytes>,
        request: impl FnOnce(OpId, u64) -> Request,
    ) -> Operation {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let id = OpId::try_from(id % OpId::MAX)
            .unwrap_or_else(|_| unreachable!("a remainder is below its divisor"));
        let (sender, events) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(INITIAL_INPUT_BYTES));

        // Register the route before the request is sent: the answer may arrive at once.
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

        // If the writer has ended, the routes have ended too.
        let _ = self.writer.send(outgoing);

        Operation {
            id,
            events,
            window,
            taken: 0,
            received: ReceivedStreams::default(),
            is_whole: true,
            is_over: false,
            input: InputSender {
                id,
                credit,
                unwritten: self.unwritten.clone(),
                writer: self.writer.clone(),
            },
            routes: self.routes.clone(),
            writer: self.writer.clone(),
        }
    }

    /// Returns whether the connection is open.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.routes).ended.borrow().is_none()
    }

    /// Ends the connection because the guest sent an answer that does not match its request.
    pub(crate) fn end(&self, error: ChannelError) {
        lock(&self.routes).end(error);
    }

    /// Sends a request that has one answer and no output, and waits for the answer.
    ///
    /// # Errors
    /// Returns [`ChannelError`]. A rejection by the agent is an event.
    pub(crate) async fn ask(
        &self,
        request: impl FnOnce(OpId) -> Request,
        deadline: Duration,
    ) -> Result<OperationEvent, ChannelError> {
        let mut operation = self.start_operation(|id, _| request(id));
        tokio::time::timeout(deadline, operation.next())
            .await
            .map_err(|_| ChannelError::Silent(deadline))?
    }
}

#[cfg(test)]
mod tests {
    use fumehood_protocol::{ActionTag, Cancel, Stream};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::super::routes::{FRAME_BYTES, LINE_BYTES};
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
        let mut operation = channel.start_operation(|op_id, credit| {
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
    async fn frames_and_chunks_are_received_byte_exact() {
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
    async fn protocol_violations_end_the_connection() {
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
                "a skipped sequence number",
                "{\"type\":\"stdout\",\"op_id\":1,\"seq\":1,\"chunk\":\"b\"}\n".into(),
            ),
            (
                "no sequence number",
                "{\"type\":\"stdout\",\"op_id\":1,\"chunk\":\"b\"}\n".into(),
            ),
            (
                "an empty piece",
                "{\"type\":\"stdout\",\"op_id\":1,\"seq\":0,\"chunk\":\"\"}\n".into(),
            ),
            (
                "a message without operation",
                "{\"type\":\"stdout\",\"chunk\":\"b\"}\n".into(),
            ),
            (
                "an unrequested pong",
                "{\"type\":\"pong\",\"version\":\"0\"}\n".into(),
            ),
            ("invalid JSON", "hello\n".into()),
            ("deeply nested JSON", "[".repeat(100_000) + "\n"),
            ("a line that is too long", long_line),
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
    async fn a_closed_connection_ends_every_operation() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours);
        let mut before = channel.start_operation(|op_id, _| {
            Request::Cancel(Cancel {
                action: ActionTag,
                op_id,
            })
        });
        drop(theirs);
        for operation in [
            &mut before,
            &mut channel.start_operation(|op_id, _| {
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

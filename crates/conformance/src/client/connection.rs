//! One connection to an agent.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::address::Address;
use super::fault::{Check, Fault, fail};
use super::message::Message;
use super::monitor::Monitor;
use super::shapes;
use super::socket::Socket;
use super::tracker::Tracker;
use super::transcript::{Transcript, shorten};

/// The longest line that an agent may send, in bytes. More than any limit allows.
const LINE_BYTES: usize = 32 * 1024 * 1024;

/// How to reach the agent, and where to record what happens.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) address: Address,
    /// How long an answer may take.
    pub(crate) deadline: Duration,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) transcript: Transcript,
    pub(crate) opened: Arc<AtomicU32>,
}

impl Link {
    pub(crate) fn open(&self) -> Check<Connection> {
        let socket = match self.address.connect(self.deadline) {
            Ok(socket) => socket,
            Err(error) => fail!("cannot connect to {}: {error}", self.address),
        };

        Ok(Connection {
            socket,
            link: self.clone(),
            number: self.opened.fetch_add(1, Ordering::Relaxed) + 1,
            input: Vec::new(),
            searched: 0,
            waiting: VecDeque::new(),
            tracker: Tracker::default(),
            is_closed: false,
            version: 0,
        })
    }
}

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    link: Link,
    number: u32,
    input: Vec<u8>,
    /// The bytes of `input` that hold no newline.
    searched: usize,
    /// Responses that arrived while those of another operation were awaited.
    waiting: VecDeque<Message>,
    tracker: Tracker,
    is_closed: bool,
    /// The version of the conversation.
    pub(crate) version: u32,
}

impl Connection {
    /// Sends bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Check {
        self.link.transcript.note(self.number, '>', bytes);
        match self.socket.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) => fail!("the agent took no more bytes: {error}"),
        }
    }

    /// Ends the stream to the agent. Fails if the agent answers the end by a response within `time`.
    pub(crate) fn end_without_response(&mut self, time: Duration) -> Check {
        if let Err(error) = self.socket.shutdown_write() {
            fail!("cannot end the stream to the agent: {error}");
        }

        match self.read(time)? {
            Incoming::Message(message) => {
                fail!("the end of the stream was answered: {}", message.show())
            }
            Incoming::Closed | Incoming::Nothing => Ok(()),
        }
    }

    /// Sends a line.
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) -> Check {
        let mut bytes = line.as_ref().to_vec();
        bytes.push(b'\n');
        self.write(&bytes)
    }

    pub(crate) fn send(&mut self, request: &Value) -> Check {
        self.line(request.to_string())
    }

    /// Sends a request and returns the next response.
    pub(crate) fn ask(&mut self, request: &Value) -> Check<Message> {
        self.send(request)?;
        self.receive()
    }

    /// The next response.
    pub(crate) fn receive(&mut self) -> Check<Message> {
        if let Some(message) = self.waiting.pop_front() {
            return Ok(message);
        }

        match self.read(self.link.deadline)? {
            Incoming::Message(message) => Ok(message),
            Incoming::Closed => fail!("the agent closed the connection"),
            Incoming::Nothing => fail!("nothing arrived within {:?}", self.link.deadline),
        }
    }

    /// The next response of this operation. Those of others are kept for later.
    pub(crate) fn receive_for(&mut self, op_id: Option<i64>) -> Check<Message> {
        if let Some(at) = self
            .waiting
            .iter()
            .position(|message| message.op_id() == op_id)
            && let Some(message) = self.waiting.remove(at)
        {
            return Ok(message);
        }

        let mut others = std::mem::take(&mut self.waiting);
        let found = loop {
            match self.receive() {
                Ok(message) if message.op_id() == op_id => break Ok(message),
                Ok(message) => others.push_back(message),
                Err(fault) => break Err(fault),
            }
        };
        self.waiting = others;
        found
    }

    /// The next response, if there is one within this time.
    pub(crate) fn receive_within(&mut self, time: Duration) -> Check<Option<Message>> {
        if let Some(message) = self.waiting.pop_front() {
            return Ok(Some(message));
        }

        match self.read(time)? {
            Incoming::Message(message) => Ok(Some(message)),
            Incoming::Closed => fail!("the agent closed the connection"),
            Incoming::Nothing => Ok(None),
        }
    }

    /// Fails unless the agent closes the connection.
    pub(crate) fn expect_closed(&mut self) -> Check {
        match self.read(self.link.deadline)? {
            Incoming::Closed => Ok(()),
            Incoming::Message(message) => {
                fail!("the connection was not closed: {}", message.show())
            }
            Incoming::Nothing => fail!(
                "the connection is still open after {:?}",
                self.link.deadline
            ),
        }
    }

    /// Fails unless the agent answers a `ping` on this connection, after nothing else.
    pub(crate) fn ping(&mut self) -> Check {
        self.line(r#"{"action":"ping"}"#)?;
        self.receive()?.expect("pong").map(drop)
    }

    /// The same, when `credit` responses may arrive before.
    pub(crate) fn ping_with_credit(&mut self) -> Check {
        self.line(r#"{"action":"ping"}"#)?;
        loop {
            let message = self.receive()?;
            if message.kind() != "credit" {
                return message.expect("pong").map(drop);
            }
        }
    }

    /// Records a violation of a clause without a separate check.
    fn violate(&self, clause: &'static str, text: String) {
        self.link
            .monitor
            .violate(clause, text, self.link.transcript.lines());
    }

    /// Reads one response, with its frame.
    fn read(&mut self, time: Duration) -> Check<Incoming> {
        let line = match self.read_line(time)? {
            Some(line) => line,
            None if self.is_closed => return Ok(Incoming::Closed),
            None => return Ok(Incoming::Nothing),
        };
        self.link.transcript.note(self.number, '<', &line);

        let fields = match serde_json::from_slice(&line) {
            Ok(Value::Object(fields)) => fields,
            _ => {
                let text = format!("a line is not one JSON object in UTF-8: {}", shorten(&line));
                self.violate("FRAME-1", text.clone());
                return Err(Fault::Failed(text));
            }
        };
        self.link.monitor.observe("FRAME-1");

        let mut message = Message {
            fields,
            frame: Vec::new(),
        };
        if message.kind() == "data" {
            let len = message
                .number("len")
                .and_then(|len| usize::try_from(len).ok())
                .unwrap_or(0);
            message.frame = self.read_frame(len)?;
        }
        self.check_message(&message);

        Ok(Incoming::Message(message))
    }

    fn check_message(&mut self, message: &Message) {
        // The answer to a `hello` may already be in the new version.
        let version = if message.kind() == "hello" {
            0
        } else {
            self.version
        };
        let mut findings = vec![shapes::check(message, version)];
        findings.extend(self.tracker.check(message, version));

        for (clause, result) in findings {
            self.link.monitor.observe(clause);
            if let Err(text) = result {
                self.violate(clause, text);
            }
        }
    }

    /// The bytes of a line, without its newline.
    fn read_line(&mut self, time: Duration) -> Check<Option<Vec<u8>>> {
        let end = Instant::now() + time;
        loop {
            let rest = &self.input[self.searched..];
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.input.drain(..=self.searched + at).collect();
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }

            self.searched = self.input.len();
            if self.input.len() > LINE_BYTES {
                fail!("the agent sent a line of more than {LINE_BYTES} bytes");
            }
            if !self.fill(end)? {
                return Ok(None);
            }
        }
    }

    fn read_frame(&mut self, len: usize) -> Check<Vec<u8>> {
        if len > LINE_BYTES {
            fail!("the agent announced a frame of {len} bytes");
        }

        let end = Instant::now() + self.link.deadline;
        while self.input.len() < len {
            if !self.fill(end)? {
                fail!("a frame of {len} bytes ended after {}", self.input.len());
            }
        }
        Ok(self.input.drain(..len).collect())
    }

    /// Reads some bytes. Returns false if there are none until `end`, or the connection is closed.
    fn fill(&mut self, end: Instant) -> Check<bool> {
        use io::ErrorKind::{ConnectionReset, Interrupted, TimedOut, WouldBlock};

        let mut buffer = [0; 64 * 1024];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.socket.read(&mut buffer, left) {
                Ok(0) => {
                    self.is_closed = true;
                    return Ok(false);
                }
                Ok(bytes) => {
                    self.input.extend_from_slice(&buffer[..bytes]);
                    return Ok(true);
                }
                Err(error) if error.kind() == ConnectionReset => {
                    self.is_closed = true;
                    return Ok(false);
                }
                Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => return Ok(false),
                Err(error) if error.kind() == Interrupted => {}
                Err(error) => fail!("the connection failed: {error}"),
            }
        }
    }
}

/// The result of a read.
enum Incoming {
    Message(Message),
    Closed,
    Nothing,
}

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Why the monitor returned no result.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU rejected a command.
    #[error("QEMU rejected `{command}`: {reason}")]
    Rejected {
        /// The command.
        command: String,
        /// The message of QEMU.
        reason: String,
    },
    /// QEMU did not answer in time.
    #[error("QEMU did not answer `{command}` within {seconds} s", seconds = .limit.as_secs_f32())]
    Timeout {
        /// The command.
        command: String,
        /// The deadline.
        limit: Duration,
    },
    /// The monitor's connection has ended.
    #[error("QEMU closed its monitor")]
    Closed,
}

/// An asynchronous event of QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub event: String,
    /// Its details.
    #[serde(default)]
    pub data: Value,
}

/// The maximum length of a line from QEMU, in bytes: a compromised QEMU must not fill our memory.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// How long one command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// The capacity of the queue of events; further ones are dropped.
const EVENT_CAPACITY: usize = 32;

#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Event(Event),
    Return {
        id: u64,
        r#return: Value,
    },
    Error {
        id: u64,
        error: ErrorBody,
    },
    Greeting {
        #[serde(rename = "QMP")]
        _greeting: Value,
    },
}

#[derive(Deserialize)]
struct ErrorBody {
    desc: String,
}

type Answer = Result<Value, String>;

/// The receivers of pending answers, by the id of the command. `None` if the connection has ended.
type PendingAnswers = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// A client of QEMU's monitor. Commands may be submitted before earlier ones are answered; QEMU executes them in
/// order.
#[derive(Debug)]
pub struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    pending: PendingAnswers,
    reader: JoinHandle<()>,
    next_id: AtomicU64,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Connects to the monitor and leaves its negotiation mode, without waiting for the answer. The second value
    /// receives events.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn connect(socket: UnixStream) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        let (reader, writer) = socket.into_split();
        let (events, event_receiver) = mpsc::channel(EVENT_CAPACITY);
        let pending = PendingAnswers::new(Mutex::new(Some(HashMap::new())));
        let reader = tokio::spawn(read_messages(
            BufReader::new(reader),
            pending.clone(),
            events,
        ));
        let qmp = Self {
            writer: tokio::sync::Mutex::new(writer),
            pending,
            reader,
            next_id: AtomicU64::new(0),
        };
        qmp.submit("qmp_capabilities", Value::Null).await?;

        Ok((qmp, event_receiver))
    }

    /// Returns whether the connection is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.is_some()
    }

    /// Executes one command and returns its result; `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.submit(command, arguments).await?.answer().await
    }

    /// Sends one command, whose answer can be awaited later.
    ///
    /// # Errors
    /// [`QmpError::Closed`].
    pub async fn submit(&self, command: &str, arguments: Value) -> Result<Pending, QmpError> {
        self.send(command, arguments, None).await
    }

    /// Sends one command with a descriptor, for `getfd` and `add-fd`. QEMU stores only one received descriptor at a
    /// time: wait for the answer before sending another.
    ///
    /// # Errors
    /// [`QmpError::Closed`].
    pub async fn submit_with_fd(
        &self,
        command: &str,
        arguments: Value,
        fd: BorrowedFd<'_>,
    ) -> Result<Pending, QmpError> {
        self.send(command, arguments, Some(fd)).await
    }

    async fn send(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Pending, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }

        // Registered before the command is sent, so that its answer always finds the receiver.
        let (sender, answer) = oneshot::channel();
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .ok_or(QmpError::Closed)?
            .insert(id, sender);

        // The descriptor travels with the start of the line; the rest follows without one.
        let line = format!("{message}\n").into_bytes();
        let mut writer = self.writer.lock().await;
        let sent = match fd {
            Some(fd) => send_with_fd(&writer, &line, fd).await,
            None => Ok(0),
        };
        let written = match sent {
            Ok(sent) => writer.write_all(&line[sent..]).await,
            Err(error) => Err(error),
        };
        written.map_err(|_| QmpError::Closed)?;

        Ok(Pending {
            command: command.to_string(),
            answer,
        })
    }
}

/// Sends a descriptor with the start of a line, and returns the number of bytes sent.
async fn send_with_fd(
    writer: &OwnedWriteHalf,
    line: &[u8],
    fd: BorrowedFd<'_>,
) -> std::io::Result<usize> {
    let socket: &UnixStream = writer.as_ref();
    let send = || {
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(socket, &[IoSlice::new(line)], &mut control, flags).map_err(Into::into)
    };

    socket.async_io(Interest::WRITABLE, send).await
}

/// A command that was sent and not answered yet.
#[derive(Debug)]
pub struct Pending {
    command: String,
    answer: oneshot::Receiver<Answer>,
}

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn answer(self) -> Result<Value, QmpError> {
        let Self { command, answer } = self;
        match tokio::time::timeout(COMMAND_TIMEOUT, answer).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(reason))) => Err(QmpError::Rejected { command, reason }),
            Ok(Err(_)) => Err(QmpError::Closed),
            Err(_) => Err(QmpError::Timeout {
                command,
                limit: COMMAND_TIMEOUT,
            }),
        }
    }
}

/// Reads messages until the connection ends, and passes on answers and events.
async fn read_messages(
    mut lines: BufReader<OwnedReadHalf>,
    pending: PendingAnswers,
    events: mpsc::Sender<Event>,
) {
    while let Some(line) = next_line(&mut lines).await {
        let (id, answer) = match serde_json::from_slice(&line) {
            Ok(Message::Event(event)) => {
                let _ = events.try_send(event);
                continue;
            }
            Ok(Message::Return { id, r#return }) => (id, Ok(r#return)),
            Ok(Message::Error { id, error }) => (id, Err(error.desc)),
            Ok(Message::Greeting { .. }) => continue,
            Err(error) => {
                tracing::warn!(%error, "QEMU's monitor sent an invalid message");
                break;
            }
        };

        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receiver) = pending.as_mut().and_then(|pending| pending.remove(&id)) {
            let _ = receiver.send(answer);
        }
    }

    pending
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
}

async fn next_line(lines: &mut BufReader<OwnedReadHalf>) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let read = lines
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', &mut line)
        .await;
    read.is_ok_and(|n| n > 0 && line.ends_with(b"\n"))
        .then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates QEMU: answers each line with the next of `answers`.
    fn fake_qemu(answers: Vec<&'static str>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            writer
                .write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n")
                .await
                .unwrap();

            let mut lines = BufReader::new(reader).lines();
            for answer in answers {
                if lines.next_line().await.unwrap().is_none() {
                    return;
                }
                writer.write_all(answer.as_bytes()).await.unwrap();
            }

            let _ = lines.next_line().await;
        });

        ours
    }

    #[tokio::test]
    async fn commands_events_and_errors() {
        let socket = fake_qemu(vec![
            "{\"return\": {}, \"id\": 0}\n",
            "{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-reset\"}}\n{\"return\": {\"status\": \"running\"}, \"id\": 1}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 2}\n",
        ]);

        let (qmp, mut events) = Qmp::connect(socket).await.unwrap();
        assert_eq!(
            qmp.execute("query-status", Value::Null).await.unwrap()["status"],
            "running"
        );
        assert_eq!(events.recv().await.unwrap().data["reason"], "guest-reset");
        let error = qmp
            .execute("dance", json!({ "fast": true }))
            .await
            .unwrap_err();

        assert!(error.to_string().contains("dance"), "{error}");
    }

    #[tokio::test]
    async fn an_invalid_message_ends_the_connection() {
        let (qmp, _events) = Qmp::connect(fake_qemu(vec!["not json\n"])).await.unwrap();
        let error = qmp.execute("query-status", Value::Null).await.unwrap_err();
        assert!(matches!(error, QmpError::Closed), "{error}");
    }
}

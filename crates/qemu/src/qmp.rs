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

/// Why the monitor gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU refused a command.
    #[error("QEMU refused `{command}`: {reason}")]
    Rejected {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// No answer in time.
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

/// Something that QEMU tells unasked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub event: String,
    /// Its details.
    #[serde(default)]
    pub data: Value,
}

/// The longest line taken from QEMU: an escaped QEMU must not fill our memory.
const LINE_BYTES: u64 = 1024 * 1024;

/// How long one command may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Events kept for whoever listens; more are dropped.
const EVENTS: usize = 32;

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

/// Who waits for an answer, by the command's id. `None`: the connection has ended.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// A client of QEMU's monitor. Commands may be sent before earlier ones are answered: QEMU executes
/// them in order.
#[derive(Debug)]
pub struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    reader: JoinHandle<()>,
    next_id: AtomicU64,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Takes the monitor's socket and leaves its negotiation mode, without waiting for that. Events go
    /// to the second value.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn connect(socket: UnixStream) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        let (reader, writer) = socket.into_split();
        let (events, listener) = mpsc::channel(EVENTS);
        let waiting = Waiting::new(Mutex::new(Some(HashMap::new())));
        let reader = tokio::spawn(read(BufReader::new(reader), waiting.clone(), events));
        let qmp = Self {
            writer: tokio::sync::Mutex::new(writer),
            waiting,
            reader,
            next_id: AtomicU64::new(0),
        };
        qmp.submit("qmp_capabilities", Value::Null).await?;
        Ok((qmp, listener))
    }

    /// Whether QEMU still keeps its monitor open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_some()
    }

    /// Runs one command; `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.submit(command, arguments).await?.answer().await
    }

    /// Sends one command; its answer can be waited for later.
    ///
    /// # Errors
    /// [`QmpError::Closed`].
    pub async fn submit(&self, command: &str, arguments: Value) -> Result<Pending, QmpError> {
        self.send(command, arguments, None).await
    }

    /// Sends one command with a descriptor, for `getfd` and `add-fd`. QEMU keeps one received
    /// descriptor at a time: wait for the answer before sending another.
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
        let (sender, answer) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .ok_or(QmpError::Closed)?
            .insert(id, sender);
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

/// Sends the beginning of a line with a descriptor; returns how much of it went.
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

/// A command that has been sent.
#[derive(Debug)]
pub struct Pending {
    command: String,
    answer: oneshot::Receiver<Answer>,
}

impl Pending {
    /// Waits for its answer.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn answer(self) -> Result<Value, QmpError> {
        let Self { command, answer } = self;
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(reason))) => Err(QmpError::Rejected { command, reason }),
            Ok(Err(_)) => Err(QmpError::Closed),
            Err(_) => Err(QmpError::Timeout {
                command,
                limit: DEADLINE,
            }),
        }
    }
}

async fn read(mut lines: BufReader<OwnedReadHalf>, waiting: Waiting, events: mpsc::Sender<Event>) {
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
                tracing::warn!(%error, "QEMU's monitor sent what is no QMP");
                break;
            }
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiter) = waiting.as_mut().and_then(|waiting| waiting.remove(&id)) {
            let _ = waiter.send(answer);
        }
    }
    waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
}

async fn next_line(lines: &mut BufReader<OwnedReadHalf>) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let read = lines.take(LINE_BYTES).read_until(b'\n', &mut line).await;
    read.is_ok_and(|n| n > 0 && line.ends_with(b"\n"))
        .then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays QEMU: answers each line it reads with the next of `answers`.
    fn fake(answers: Vec<&'static str>) -> UnixStream {
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
    async fn commands_events_and_refusals() {
        let socket = fake(vec![
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
    async fn garbage_ends_the_connection() {
        let (qmp, _events) = Qmp::connect(fake(vec!["not json\n"])).await.unwrap();
        let error = qmp.execute("query-status", Value::Null).await.unwrap_err();
        assert!(matches!(error, QmpError::Closed), "{error}");
    }
}

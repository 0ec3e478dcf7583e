use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Why the monitor gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU refused a command.
    #[error("QEMU refused `{command}`: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// No answer in time.
    #[error("QEMU did not answer `{command}` within {seconds} s", seconds = .limit.as_secs_f32())]
    Silent {
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

/// The id of a command, and who waits for its answer.
type Expected = (u64, oneshot::Sender<Answer>);

/// A client of QEMU's monitor.
#[derive(Debug)]
pub struct Qmp {
    writer: OwnedWriteHalf,
    orders: mpsc::UnboundedSender<Expected>,
    reader: JoinHandle<()>,
    next_id: u64,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Takes the monitor's socket and leaves its negotiation mode. Events go to the second value.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn connect(socket: UnixStream) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        let (reader, writer) = socket.into_split();
        let (orders, inbox) = mpsc::unbounded_channel();
        let (events, listener) = mpsc::channel(EVENTS);
        let reader = tokio::spawn(read(BufReader::new(reader), inbox, events));
        let mut qmp = Self {
            writer,
            orders,
            reader,
            next_id: 0,
        };
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok((qmp, listener))
    }

    /// Runs one command; `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let (answer, waiter) = oneshot::channel();
        self.orders
            .send((id, answer))
            .map_err(|_| QmpError::Closed)?;
        let line = format!("{message}\n");
        self.writer
            .write_all(line.as_bytes())
            .await
            .map_err(|_| QmpError::Closed)?;
        match tokio::time::timeout(DEADLINE, waiter).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(reason))) => Err(QmpError::Refused {
                command: command.into(),
                reason,
            }),
            Ok(Err(_)) => Err(QmpError::Closed),
            Err(_) => Err(QmpError::Silent {
                command: command.into(),
                limit: DEADLINE,
            }),
        }
    }
}

async fn read(
    mut lines: BufReader<tokio::net::unix::OwnedReadHalf>,
    mut orders: mpsc::UnboundedReceiver<Expected>,
    events: mpsc::Sender<Event>,
) {
    let mut waiting: HashMap<u64, oneshot::Sender<Answer>> = HashMap::new();
    loop {
        let mut line = Vec::new();
        match (&mut lines)
            .take(LINE_BYTES)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(n) if n > 0 && line.ends_with(b"\n") => {}
            _ => return,
        }
        // An order is always queued before its command is written: it is here before its answer.
        while let Ok((id, answer)) = orders.try_recv() {
            waiting.insert(id, answer);
        }
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
                return;
            }
        };
        if let Some(waiter) = waiting.remove(&id) {
            let _ = waiter.send(answer);
        }
    }
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
        let (mut qmp, mut events) = Qmp::connect(socket).await.unwrap();
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
        let error = Qmp::connect(fake(vec!["not json\n"])).await.unwrap_err();
        assert!(matches!(error, QmpError::Closed), "{error}");
    }
}

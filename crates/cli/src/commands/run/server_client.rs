//! A server of this user's that runs already: it has VMs that wait, which a command of its own has not.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use fumehood_engine::{EndedBy, Event, Evidence, MimeBundle};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::outcome::{Ended, Failure, Told};

/// How long a server may take to answer that it is there. One that is too busy for it is of no use.
const ANSWER: Duration = Duration::from_secs(2);

/// The most of one event, in bytes: a chunk of output, every byte of it escaped, and a margin.
const EVENT_BYTES: usize = 16 * 1024 * 1024;

/// One write to a program's input, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// An outcome's fields, as `--json` has them.
const FIELDS: [&str; 7] = [
    "exit_code",
    "ended_by",
    "evidence",
    "source",
    "accelerator",
    "isolation",
    "timing",
];

/// A server of this user's.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    socket: PathBuf,
}

impl Server {
    /// The one that listens where this user's servers do, if it runs this image; none: the command does it itself.
    pub(crate) async fn find(image: &str) -> Option<Self> {
        let server = Self {
            socket: fumehood_server::default_socket(),
        };
        let asked = server.ask(Method::GET, "/v1/info", Bytes::new(), "application/json");
        let answer = tokio::time::timeout(ANSWER, asked).await.ok()?.ok()?;
        let info = tokio::time::timeout(ANSWER, json(answer)).await.ok()??;
        (info["image"] == image).then_some(server)
    }

    /// A connection to it, if it is this user's.
    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let user = rustix::process::geteuid().as_raw();
        let is_own = std::fs::symlink_metadata(&self.socket).is_ok_and(|found| found.uid() == user);
        let stream = UnixStream::connect(&self.socket).await?;
        anyhow::ensure!(
            is_own && stream.peer_cred()?.uid() == user,
            "the server is somebody else's"
        );
        let (send, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(send)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: &str,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        Ok(self.connect().await?.send_request(request).await?)
    }

    /// Has it run what a body of its API describes. `Ok(None)`: it begins nothing, and nothing was begun.
    ///
    /// # Errors
    /// [`Failure`]: its answer.
    pub(crate) async fn run(self, body: &Value) -> Result<Option<Running>, Failure> {
        let body = Bytes::from(body.to_string());
        let answer = self
            .ask(Method::POST, "/v1/runs", body, "text/event-stream")
            .await;
        let answer = answer.map_err(lost)?;
        let status = answer.status();
        if status == StatusCode::OK {
            let mut running = Running {
                server: self,
                id: String::new(),
                events: answer.into_body(),
                unread: BytesMut::new(),
                end: None,
            };
            let (name, data) = running.told().await?;
            running.id = data["id"].as_str().unwrap_or_default().to_owned();
            if name != "run" || running.id.is_empty() {
                return Err(lost("it answered in a way that is not known here"));
            }
            return Ok(Some(running));
        }
        let said = json(answer).await.unwrap_or_default();
        match said["error"]["kind"].as_str() {
            Some("draining") => Ok(None),
            _ => Err(failure(&said["error"])),
        }
    }
}

async fn json(answer: Response<Incoming>) -> Option<Value> {
    let body = http_body_util::Limited::new(answer.into_body(), EVENT_BYTES);
    let bytes = body.collect().await.ok()?.to_bytes();
    serde_json::from_slice(&bytes).ok()
}

/// What the server says of something that has no outcome.
fn failure(said: &Value) -> Failure {
    let word = |name: &str, or: &str| said[name].as_str().unwrap_or(or).to_owned();
    Failure {
        kind: word("kind", "host"),
        retry: word("retry", "unknown"),
        message: word("message", "the server gave no reason"),
    }
}

fn lost(why: impl std::fmt::Display) -> Failure {
    Failure {
        kind: "lost".into(),
        retry: "unknown".into(),
        message: format!("the conversation with the server broke: {why}"),
    }
}

/// A run that a server drives. Dropping it ends it, as it does one of this command's own.
#[derive(Debug)]
pub(crate) struct Running {
    server: Server,
    id: String,
    events: Incoming,
    unread: BytesMut,
    end: Option<Result<Ended, Failure>>,
}

impl Running {
    /// What it tells next; none when all has been told.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        while self.end.is_none() {
            let (name, data) = match self.told().await {
                Ok(told) => told,
                Err(failure) => {
                    self.end = Some(Err(failure));
                    break;
                }
            };
            match name.as_str() {
                "ended" => self.end = Some(ended(&data)),
                "failed" => self.end = Some(Err(failure(&data))),
                _ => {}
            }
            if let Some(event) = event(&name, &data) {
                return Some(event);
            }
        }
        None
    }

    /// How it ended.
    ///
    /// # Errors
    /// [`Failure`]: it has no outcome.
    pub(crate) async fn outcome(mut self) -> Result<Ended, Failure> {
        while self.next().await.is_some() {}
        self.end
            .unwrap_or_else(|| Err(lost("it ended in the middle")))
    }

    /// Something that asks for its end.
    pub(crate) fn canceller(&self) -> impl Fn() + Send + 'static {
        let (server, path) = (self.server.clone(), format!("/v1/runs/{}/cancel", self.id));
        move || {
            let (server, path) = (server.clone(), path.clone());
            tokio::spawn(async move {
                server
                    .ask(Method::POST, &path, Bytes::new(), "*/*")
                    .await
                    .is_ok()
            });
        }
    }

    /// Passes this command's standard input on.
    pub(crate) fn feed(&self) -> Feeding {
        let (server, path) = (self.server.clone(), format!("/v1/runs/{}/stdin", self.id));
        Feeding(tokio::spawn(async move {
            let mut stdin = tokio::io::stdin();
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let len = stdin.read(&mut piece).await.unwrap_or(0);
                let path = if len == 0 {
                    format!("{path}?close=true")
                } else {
                    path.clone()
                };
                let piece = Bytes::copy_from_slice(&piece[..len]);
                let sent = server.ask(Method::POST, &path, piece, "*/*").await;
                if len == 0 || !sent.is_ok_and(|answer| answer.status().is_success()) {
                    return;
                }
            }
        }))
    }

    /// The next event: its name and what it holds.
    async fn told(&mut self) -> Result<(String, Value), Failure> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.unread.split_to(at);
                self.unread.advance(2);
                match parse(&block) {
                    Some(told) => return Ok(told),
                    None => continue,
                }
            }
            if self.unread.len() > EVENT_BYTES {
                return Err(lost("an event without end"));
            }
            let frame = self.events.frame().await;
            let frame = frame
                .ok_or_else(|| lost("it ended in the middle"))?
                .map_err(lost)?;
            if let Ok(data) = frame.into_data() {
                self.unread.extend_from_slice(&data);
            }
        }
    }
}

/// An event's name and data; none: a comment.
fn parse(block: &[u8]) -> Option<(String, Value)> {
    let text = std::str::from_utf8(block).ok()?;
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let data = serde_json::from_str(field("data")?).ok()?;
    Some((field("event")?.to_owned(), data))
}

/// What a run of this command's own would have told.
fn event(name: &str, data: &Value) -> Option<Event> {
    match name {
        "stdout" => Some(Event::Stdout(bytes(data)?)),
        "stderr" => Some(Event::Stderr(bytes(data)?)),
        "result" => {
            let value: MimeBundle = serde_json::from_value(data.clone()).ok()?;
            Some(Event::Result(value))
        }
        _ => None,
    }
}

fn bytes(data: &Value) -> Option<Bytes> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    match data["text"].as_str() {
        Some(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        None => Some(STANDARD.decode(data["base64"].as_str()?).ok()?.into()),
    }
}

fn ended(data: &Value) -> Result<Ended, Failure> {
    let read = || {
        let ended_by: EndedBy = serde_json::from_value(data["ended_by"].clone()).ok()?;
        let evidence: Evidence = serde_json::from_value(data["evidence"].clone()).ok()?;
        let exit_code = serde_json::from_value(data["exit_code"].clone()).ok()?;
        let fields = FIELDS.map(|name| (name.to_owned(), data[name].clone()));
        Some(Ended {
            exit_code,
            ended_by,
            evidence,
            accelerator: data["accelerator"].as_str()?.to_owned(),
            network: None,
            told: Told::Fields(Map::from_iter(fields)),
        })
    };
    read().ok_or_else(|| lost("it told an end that is not known here"))
}

/// Passes input on until it is dropped.
pub(crate) struct Feeding(JoinHandle<()>);

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_what_a_run_of_ones_own_tells() {
        let block = b"event: stdout\ndata: {\"text\":\"a\\nb\"}\nid: 3";
        let (name, data) = parse(block).unwrap();
        assert_eq!(event(&name, &data), Some(Event::Stdout("a\nb".into())));
        let (name, data) = parse(b"event: stderr\ndata: {\"base64\":\"/w==\"}").unwrap();
        assert_eq!(
            event(&name, &data),
            Some(Event::Stderr(Bytes::from_static(b"\xff")))
        );
        assert_eq!(parse(b":"), None);
        assert_eq!(parse(b"event: run\ndata: {"), None);
    }
}

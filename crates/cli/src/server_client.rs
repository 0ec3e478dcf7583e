//! Client of the HTTP API, for a server of this user at its Unix socket. Events of a run arrive as server-sent events, and
//! become those of an engine in this process.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use fumehood_engine::{Event, MimeBundle, Outcome};
use fumehood_server::Store;
use http_body_util::{BodyExt, Full, Limited};
pub(crate) use hyper::Method;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::io::StdinForwarder;
use crate::outcome::Failure;

/// Timeout of the first request. A server that is too busy to answer it is not used.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum size of an event, in bytes: a chunk of output with every byte escaped, and a margin.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// The media types of answers.
const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";
const ANY: &str = "*/*";

/// A server of this user. Each request has its own connection.
#[derive(Debug, Clone)]
pub(crate) struct ServerClient {
    socket: PathBuf,
}

impl ServerClient {
    /// Finds the server at the default socket, or at the one that it has recorded. Returns `None` if there is none, if it
    /// uses another image, or if its runs may not take `timeout_s` seconds.
    pub(crate) async fn find(image: &str, timeout_s: u64) -> Option<Self> {
        let sockets = std::iter::once(fumehood_server::default_socket())
            .chain(Store::recorded_socket(&state_path()));

        for socket in sockets {
            let client = Self { socket };
            if let Some(info) = client.info().await {
                let max_timeout_s = info["limits"]["timeout_s"].as_u64()?;
                return (info["image"] == image && timeout_s <= max_timeout_s).then_some(client);
            }
        }
        None
    }

    /// Returns the description of the server. Returns `None` if it does not answer.
    async fn info(&self) -> Option<Value> {
        let response = self.send(Method::GET, "/v1/info", Bytes::new(), JSON);
        let response = tokio::time::timeout(PROBE_TIMEOUT, response)
            .await
            .ok()?
            .ok()?;
        tokio::time::timeout(PROBE_TIMEOUT, read_json(response))
            .await
            .ok()?
    }

    /// Returns the client of the server at `socket`; by default of this user's server, with any image.
    pub(crate) async fn at(socket: Option<PathBuf>) -> Self {
        let sockets = std::iter::once(fumehood_server::default_socket())
            .chain(Store::recorded_socket(&state_path()));

        match socket {
            Some(socket) => Self { socket },
            None => Self::first_alive(sockets.collect()).await,
        }
    }

    /// Returns a client of the first socket at which a server answers, or else of the first one.
    async fn first_alive(sockets: Vec<PathBuf>) -> Self {
        let mut clients = sockets.into_iter().map(|socket| Self { socket });
        let first = clients.next().unwrap_or_else(|| Self {
            socket: fumehood_server::default_socket(),
        });

        for client in std::iter::once(first.clone()).chain(clients) {
            if client.connect().await.is_ok() {
                return client;
            }
        }
        first
    }

    /// Sends a request without a body, and returns the JSON of the answer.
    ///
    /// # Errors
    /// The server cannot be reached, or reports an error.
    pub(crate) async fn request(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let response = self.send(method, path, Bytes::new(), JSON).await;
        let response = response.with_context(|| {
            let socket = self.socket.display();
            format!("cannot reach a server at {socket}; start one with `fumehood serve`")
        })?;

        let status = response.status();
        let answer = read_json(response).await.context("unexpected answer")?;
        match answer["error"]["message"].as_str() {
            None if status.is_success() => Ok(answer),
            message => bail!("{}", message.unwrap_or("the server gave no reason")),
        }
    }

    /// Starts a run. Returns `None` if the server is shutting down and has started nothing.
    ///
    /// # Errors
    /// The server rejects the run, or the connection breaks.
    pub(crate) async fn start_run(self, body: &Value) -> Result<Option<ServerRun>, Failure> {
        let body = Bytes::from(body.to_string());
        let response = self
            .send(Method::POST, "/v1/runs", body, EVENT_STREAM)
            .await
            .map_err(connection_failure)?;

        if response.status() != StatusCode::OK {
            let answer = read_json(response).await.unwrap_or_default();
            return match answer["error"]["kind"].as_str() {
                Some("draining") => Ok(None),
                _ => Err(server_failure(&answer["error"])),
            };
        }

        // The first event names the run.
        let mut events = EventStream::new(response.into_body());
        let first = events.next().await?;
        let id = first.data["id"].as_str().unwrap_or_default().to_owned();
        if first.name != "run" || path_segment(&id).is_err() {
            return Err(connection_failure("unexpected answer"));
        }
        Ok(Some(ServerRun {
            client: self,
            id,
            events,
            outcome: None,
        }))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: &str,
    ) -> anyhow::Result<Response<Incoming>> {
        // The server requires a known `Host`, also on a Unix socket.
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, JSON)
            .body(Full::new(body))?;
        Ok(self.connect().await?.send_request(request).await?)
    }

    /// Connects to the server after checking that the socket and the server belong to this user.
    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let user = rustix::process::geteuid().as_raw();
        let owns_socket =
            std::fs::symlink_metadata(&self.socket).is_ok_and(|metadata| metadata.uid() == user);
        let stream = UnixStream::connect(&self.socket).await?;
        anyhow::ensure!(
            owns_socket && stream.peer_cred()?.uid() == user,
            "the server belongs to another user"
        );

        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// A run on a server. Dropping it closes the event stream, after which the server cancels the run.
#[derive(Debug)]
pub(crate) struct ServerRun {
    client: ServerClient,
    id: String,
    events: EventStream,
    outcome: Option<Result<Outcome, Failure>>,
}

impl ServerRun {
    /// Returns the next event, or `None` after the last one.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        while self.outcome.is_none() {
            let event = match self.events.next().await {
                Ok(event) => event,
                Err(failure) => {
                    self.outcome = Some(Err(failure));
                    break;
                }
            };

            // The last event is the outcome or a failure. Events that this client does not know are skipped.
            match event.name.as_str() {
                "ended" => self.outcome = Some(parse_outcome(event.data.clone())),
                "failed" => self.outcome = Some(Err(server_failure(&event.data))),
                _ => {}
            }
            if let Some(event) = event.to_engine_event() {
                return Some(event);
            }
        }
        None
    }

    /// Waits for the outcome. Further events are dropped.
    ///
    /// # Errors
    /// The run has no outcome, or the connection breaks.
    pub(crate) async fn outcome(mut self) -> Result<Outcome, Failure> {
        while self.next().await.is_some() {}

        self.outcome
            .unwrap_or_else(|| Err(connection_failure("the event stream ended early")))
    }

    /// Returns a function that cancels the run.
    pub(crate) fn canceller(&self) -> impl Fn() + Send + 'static {
        let client = self.client.clone();
        let path = format!("/v1/runs/{}/cancel", self.id);

        move || {
            let (client, path) = (client.clone(), path.clone());
            tokio::spawn(async move {
                let result = client.send(Method::POST, &path, Bytes::new(), ANY).await;
                result.is_ok()
            });
        }
    }

    /// Starts to forward standard input to the program.
    pub(crate) fn forward_stdin(&self) -> StdinForwarder {
        let client = self.client.clone();
        let path = format!("/v1/runs/{}/stdin", self.id);

        StdinForwarder::to_function(move |bytes| {
            let client = client.clone();
            // An empty read is the end of the input.
            let path = if bytes.is_empty() {
                format!("{path}?close=true")
            } else {
                path.clone()
            };
            async move {
                let result = client.send(Method::POST, &path, bytes.into(), ANY).await;
                result.is_ok_and(|response| response.status().is_success())
            }
        })
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
struct EventStream {
    body: Incoming,
    buffer: BytesMut,
}

impl EventStream {
    fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
        }
    }

    async fn next(&mut self) -> Result<ServerEvent, Failure> {
        loop {
            // An empty line ends an event. Blocks without data are comments, which keep the connection alive.
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.buffer.split_to(end);
                self.buffer.advance(2);
                match ServerEvent::parse(&block) {
                    Some(event) => return Ok(event),
                    None => continue,
                }
            }

            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err(connection_failure("an event is too long"));
            }
            let frame = match self.body.frame().await {
                Some(frame) => frame.map_err(connection_failure)?,
                None => return Err(connection_failure("the event stream ended early")),
            };
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// A server-sent event.
#[derive(Debug, PartialEq)]
struct ServerEvent {
    name: String,
    data: Value,
}

impl ServerEvent {
    /// Parses the lines of an event. Returns `None` if it has no name or no JSON data.
    fn parse(block: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(block).ok()?;
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };

        let data = serde_json::from_str(field("data")?).ok()?;
        let name = field("event")?.to_owned();
        Some(Self { name, data })
    }

    /// Returns the event of an engine with the same content, if this one is output or a value.
    fn to_engine_event(&self) -> Option<Event> {
        match self.name.as_str() {
            "stdout" => Some(Event::Stdout(self.output()?)),
            "stderr" => Some(Event::Stderr(self.output()?)),
            "result" => {
                let value: MimeBundle = serde_json::from_value(self.data.clone()).ok()?;
                Some(Event::Result(value))
            }
            _ => None,
        }
    }

    /// Returns the bytes of output: text, or base64 if it is not valid UTF-8.
    fn output(&self) -> Option<Bytes> {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;

        match self.data["text"].as_str() {
            Some(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            None => Some(STANDARD.decode(self.data["base64"].as_str()?).ok()?.into()),
        }
    }
}

/// Returns a name as one segment of a path.
///
/// # Errors
/// The name has a character that no id and no key name has, or is `.` or `..`: such a path means something else.
pub(crate) fn path_segment(name: &str) -> anyhow::Result<&str> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = !name.is_empty() && !matches!(name, "." | "..") && name.chars().all(is_allowed);
    anyhow::ensure!(
        is_name,
        "`{}` is not an ID or a name of a key",
        name.escape_debug()
    );
    Ok(name)
}

/// Returns the path of the state of this user's server.
fn state_path() -> PathBuf {
    std::env::var_os("FUMEHOOD_STATE").map_or_else(Store::default_path, PathBuf::from)
}

fn parse_outcome(data: Value) -> Result<Outcome, Failure> {
    serde_json::from_value(data)
        .map_err(|error| connection_failure(format!("unexpected outcome: {error}")))
}

/// Reads the body of an answer as JSON.
async fn read_json(response: Response<Incoming>) -> Option<Value> {
    let body = Limited::new(response.into_body(), MAX_EVENT_BYTES);
    let bytes = body.collect().await.ok()?.to_bytes();
    serde_json::from_slice(&bytes).ok()
}

/// Returns the failure that the server reports in `error`.
fn server_failure(error: &Value) -> Failure {
    let field = |name: &str, default: &str| error[name].as_str().unwrap_or(default).to_owned();
    Failure {
        kind: field("kind", "host"),
        retry: field("retry", "unknown"),
        message: field("message", "the server gave no reason"),
    }
}

/// Returns the failure for a broken connection or an answer that cannot be understood.
fn connection_failure(reason: impl std::fmt::Display) -> Failure {
    Failure {
        kind: "lost".into(),
        retry: "unknown".into(),
        message: format!("the connection to the server failed: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_engine_event(block: &[u8]) -> Option<Event> {
        ServerEvent::parse(block).unwrap().to_engine_event()
    }

    #[test]
    fn server_events_become_engine_events() {
        let block = b"event: stdout\ndata: {\"text\":\"a\\nb\"}\nid: 3";
        assert_eq!(
            parse_engine_event(block),
            Some(Event::Stdout("a\nb".into()))
        );

        let block = b"event: stderr\ndata: {\"base64\":\"/w==\"}";
        let bytes = Bytes::from_static(b"\xff");
        assert_eq!(parse_engine_event(block), Some(Event::Stderr(bytes)));

        assert_eq!(ServerEvent::parse(b":"), None);
        assert_eq!(ServerEvent::parse(b"event: run\ndata: {"), None);
    }

    #[test]
    fn names_do_not_leave_their_segment() {
        for name in ["", ".", "..", "../runs", "a/b", "a?b", "a%2e", "a b"] {
            assert!(path_segment(name).is_err(), "{name}");
        }
        assert!(path_segment("sb_0a").is_ok() && path_segment("ci-1.2").is_ok());
    }
}

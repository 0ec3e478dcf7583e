//! The command `fumehood serve`, and an HTTP client for it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{finish, fumehood, program, send, wait_until, within_deadline};

/// A separate server with a separate state. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    dir: Arc<TempDir>,
    /// The address at which it listens, as `127.0.0.1:PORT`.
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server with these options.
    ///
    /// # Panics
    /// Panics if it does not listen.
    #[must_use]
    pub fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        Self::start_in(&Arc::new(dir), options)
    }

    /// Starts a server with the state that another server left.
    ///
    /// # Panics
    /// Panics if it does not listen.
    #[must_use]
    pub fn start_in(dir: &Arc<TempDir>, options: &[&str]) -> Self {
        Self::spawn(fumehood(), dir, options)
    }

    /// Starts a server that may have this many descriptors.
    ///
    /// # Panics
    /// Panics if it does not listen.
    #[must_use]
    pub fn start_with_descriptors(most: u32) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={most}")).arg(program());
        command.env("FUMEHOOD_NO_SERVER", "1");
        Self::spawn(command, &Arc::new(dir), &[])
    }

    /// Starts a server by this command.
    fn spawn(mut command: Command, dir: &Arc<TempDir>, options: &[&str]) -> Self {
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--socket"])
            .arg(dir.path().join("server.sock"))
            .arg("--state")
            .arg(dir.path().join("state.sqlite"))
            .args(options)
            .env("FUMEHOOD_LOG", "warn")
            .stdout(Stdio::piped());

        let mut child = command.spawn().unwrap_or_else(|e| panic!("{e}"));
        let out = child.stdout.take().map(BufReader::new);
        let mut lines = out
            .into_iter()
            .flat_map(BufRead::lines)
            .map_while(Result::ok);

        let address =
            lines.find_map(|line| Some(line.strip_prefix("listening at http://")?.to_owned()));

        Self {
            child,
            dir: dir.clone(),
            address: address.unwrap_or_else(|| panic!("the server does not listen")),
        }
    }

    /// Returns its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the directory of its state.
    #[must_use]
    pub fn dir(&self) -> &Arc<TempDir> {
        &self.dir
    }

    /// Returns the path of its Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("server.sock")
    }

    /// Sends it a signal, waits until it exits, and returns its exit code.
    ///
    /// # Panics
    /// Panics if it does not exit.
    pub fn end(&mut self, signal: Signal) -> Option<i32> {
        send(self.pid(), signal);
        let mut status = None;
        wait_until("the server's end", || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });

        status.and_then(|status| status.code())
    }

    /// Creates an API key.
    ///
    /// # Panics
    /// Panics if it fails.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        let mut command = fumehood();
        command
            .args(["keys", "create", name, "--state"])
            .arg(self.dir.path().join("state.sqlite"));

        let output = finish(command);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Connects a client to the Unix socket.
    ///
    /// # Panics
    /// Panics if the connection fails.
    pub async fn client(&self) -> Client {
        Client::at(&self.socket()).await
    }

    /// Connects a client by TCP, with an API key.
    ///
    /// # Panics
    /// Panics if the connection fails.
    pub async fn with_key(&self, key: &str) -> Client {
        let stream = tokio::net::TcpStream::connect(&self.address).await;
        let mut client = Client::over(stream.unwrap_or_else(|e| panic!("{e}"))).await;
        client
            .headers
            .push(("authorization".into(), format!("Bearer {key}")));
        client
    }
}

/// An HTTP client with one persistent connection.
#[derive(Debug)]
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Headers that it sends with each request.
    pub headers: Vec<(String, String)>,
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: hyper::HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// Returns the body as JSON; null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Client {
    /// Connects to a Unix socket.
    ///
    /// # Panics
    /// Panics if the connection fails.
    pub async fn at(socket: &Path) -> Self {
        let stream = tokio::net::UnixStream::connect(socket).await;
        Self::over(stream.unwrap_or_else(|e| panic!("{}: {e}", socket.display()))).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.unwrap_or_else(|e| panic!("{e}"));
        tokio::spawn(connection);
        Self {
            sender,
            headers: Vec::new(),
        }
    }

    /// Sends a request, and returns the response as soon as its head arrives.
    ///
    /// # Errors
    /// Returns an error if the connection breaks.
    ///
    /// # Panics
    /// Panics if the request is invalid.
    pub async fn open(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");

        for (name, value) in &self.headers {
            request = request.header(name, value);
        }

        for (name, value) in headers {
            request = request.header(*name, *value);
        }

        let request = request
            .body(Full::new(body.into()))
            .unwrap_or_else(|e| panic!("{e}"));
        self.sender.ready().await?;

        self.sender.send_request(request).await
    }

    /// Sends a request, and returns the whole response.
    ///
    /// # Panics
    /// Panics if it fails.
    pub async fn request(&mut self, method: &str, path: &str, body: impl Into<Bytes>) -> Reply {
        self.request_with_headers(method, path, &[], body).await
    }

    /// Sends a request with these headers, and returns the whole response.
    ///
    /// # Panics
    /// Panics if it fails.
    pub async fn request_with_headers(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let all = async {
            let response = self.open(method, path, headers, body).await?;
            let (parts, body) = response.into_parts();
            Ok::<_, hyper::Error>(Reply {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: body.collect().await?.to_bytes(),
            })
        };

        let reply = within_deadline("an answer", all).await;
        reply.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Sends a request with a JSON body, and returns the response's, which must have this status.
    ///
    /// # Panics
    /// Panics if the status is another one.
    pub async fn json(&mut self, method: &str, path: &str, body: &Value, status: u16) -> Value {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };

        let reply = self.request(method, path, text).await;
        let json = reply.json();
        assert_eq!(reply.status, status, "{method} {path}: {json}");
        json
    }

    /// Sends a request for a stream of events.
    ///
    /// # Panics
    /// Panics if the response is no such stream.
    pub async fn events(
        self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Events {
        let mut client = self;
        let mut all = vec![("accept", "text/event-stream")];
        all.extend_from_slice(headers);

        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };

        let response = client.open(method, path, &all, text).await;
        let response = response.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert_eq!(response.status(), 200, "{method} {path}");

        Events {
            body: response.into_body(),
            held: String::new(),
            _client: client,
        }
    }
}

/// A stream of events. Dropping it closes the connection.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    held: String,
    _client: Client,
}

/// An event of the stream.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServerEvent {
    /// Its name.
    pub name: String,
    /// Its number; 0 if it has none.
    pub id: u64,
    /// Its data.
    pub data: Value,
}

impl Events {
    /// Returns the next event; `None` after the last.
    ///
    /// # Panics
    /// Panics if none arrives in time.
    pub async fn next(&mut self) -> Option<ServerEvent> {
        // The comments that keep the connection open are no events.
        within_deadline("an event", self.receive()).await
    }

    async fn receive(&mut self) -> Option<ServerEvent> {
        loop {
            if let Some((block, rest)) = self.held.split_once("\n\n") {
                let sent = parse(block);
                self.held = rest.to_owned();
                match sent {
                    Some(sent) => return Some(sent),
                    None => continue,
                }
            }

            let frame = self.body.frame().await?;
            let frame = frame.unwrap_or_else(|e| panic!("{e}"));
            if let Ok(bytes) = frame.into_data() {
                self.held.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// Returns the next event of this name, and skips others.
    ///
    /// # Panics
    /// Panics if the stream ends first.
    pub async fn until(&mut self, name: &str) -> ServerEvent {
        loop {
            match self.next().await {
                Some(sent) if sent.name == name => return sent,
                Some(_) => {}
                None => panic!("the events end without `{name}`"),
            }
        }
    }

    /// Returns all events until the stream ends.
    ///
    /// # Panics
    /// Panics if none arrives in time.
    pub async fn all(mut self) -> Vec<ServerEvent> {
        let mut all = Vec::new();
        while let Some(sent) = self.next().await {
            all.push(sent);
        }
        all
    }
}

fn parse(block: &str) -> Option<ServerEvent> {
    let mut sent = ServerEvent::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':')?;
        let value = value.strip_prefix(' ').unwrap_or(value);

        match field {
            "event" => sent.name = value.to_owned(),
            "id" => sent.id = value.parse().ok()?,
            "data" => sent.data = serde_json::from_str(value).ok()?,
            _ => {}
        }
    }

    (!sent.name.is_empty()).then_some(sent)
}

/// Returns the text of standard output in these events.
#[must_use]
pub fn stdout_of(events: &[ServerEvent]) -> String {
    let pieces = events.iter().filter(|sent| sent.name == "stdout");
    pieces
        .filter_map(|sent| sent.data["text"].as_str())
        .collect()
}

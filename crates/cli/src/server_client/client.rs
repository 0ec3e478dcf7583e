//! Connections to the server, and requests with JSON or streams.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use fumehood_server::Store;
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
pub(crate) use hyper::Method;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, TE};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::answers::{read_body, read_json, server_failure};
use super::events::EventStream;
use crate::outcome::Failure;

/// Timeout of the first request. A server that is too busy to answer it is not used.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The media types of answers.
pub(super) const JSON: &str = "application/json";
pub(super) const EVENT_STREAM: &str = "text/event-stream";
pub(super) const ANY: &str = "*/*";

/// The body of a request: bytes in memory, or a stream.
pub(super) type Body = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

/// A server of this user. Each request has its own connection.
#[derive(Debug, Clone)]
pub(crate) struct ServerClient {
    socket: PathBuf,
}

impl ServerClient {
    /// Finds the server at the default socket, or at the one that it has recorded. Returns `None` if there is none, if it
    /// uses another image, or if its runs may not take `timeout_s` seconds.
    pub(crate) async fn find(image: &str, timeout_s: u64) -> Option<Self> {
        for socket in candidate_sockets() {
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

    /// Returns the client of the server at this socket, whether it runs or not.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Returns the client of the server at `socket`; by default of this user's server, with any image.
    pub(crate) async fn at(socket: Option<PathBuf>) -> Self {
        match socket {
            Some(socket) => Self { socket },
            None => Self::find_running().await.unwrap_or_else(|| Self {
                socket: fumehood_server::default_socket(),
            }),
        }
    }

    /// Returns the client of the server at `socket`; by default of this user's server.
    ///
    /// # Errors
    /// No server runs there.
    pub(crate) async fn connected(socket: Option<PathBuf>) -> anyhow::Result<Self> {
        let advice = "`fumehood sandbox create` starts one; so does `fumehood serve`";
        match socket {
            Some(socket) => {
                let client = Self { socket };
                let connected = client.connect().await;
                let shown = client.socket.display();
                connected.with_context(|| format!("no server runs at {shown}; {advice}"))?;
                Ok(client)
            }
            None => match Self::find_running().await {
                Some(client) => Ok(client),
                None => bail!("no fumehood server of this user runs; {advice}"),
            },
        }
    }

    /// Returns a client of the first socket at which a server of this user answers.
    async fn find_running() -> Option<Self> {
        for socket in candidate_sockets() {
            let client = Self { socket };
            if client.connect().await.is_ok() {
                return Some(client);
            }
        }
        None
    }

    /// Sends a request without a body, and returns the JSON of the answer; null if it has no content.
    ///
    /// # Errors
    /// The server cannot be reached, or reports a [`Failure`].
    pub(crate) async fn request(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        self.call(method, path, Bytes::new()).await
    }

    /// Sends a request with a JSON body, and returns the JSON of the answer; null if it has no content.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = Bytes::from(body.to_string());
        self.call(Method::POST, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let response = self.send(method, path, body, JSON).await;
        let response = checked(response.with_context(|| self.unreachable())?).await?;

        let bytes = read_body(response).await.context("unexpected answer")?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).context("unexpected answer")
    }

    /// Opens the event stream at `path`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub(crate) async fn events(&self, path: &str) -> anyhow::Result<EventStream> {
        let response = self.send(Method::GET, path, Bytes::new(), EVENT_STREAM);
        let response = checked(response.await.with_context(|| self.unreachable())?).await?;
        Ok(EventStream::new(response.into_body()))
    }

    /// Starts to receive the content at `path`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub(crate) async fn download(&self, path: &str) -> anyhow::Result<Incoming> {
        let response = self.send(Method::GET, path, Bytes::new(), ANY).await;
        let response = checked(response.with_context(|| self.unreachable())?).await?;
        Ok(response.into_body())
    }

    /// Sends a stream as the content at `path`. Dropping its sender without an abort ends the content.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub(crate) async fn upload(
        &self,
        path: &str,
        content: Channel<Bytes, io::Error>,
    ) -> anyhow::Result<()> {
        let body = Either::Right(content);
        let response = self.send_body(Method::PUT, path, body, JSON).await;
        checked(response.with_context(|| self.unreachable())?).await?;
        Ok(())
    }

    fn unreachable(&self) -> String {
        let socket = self.socket.display();
        format!("cannot reach a server at {socket}; start one with `fumehood serve`")
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: &str,
    ) -> anyhow::Result<Response<Incoming>> {
        let body = Either::Left(Full::new(body));
        self.send_body(method, path, body, accept).await
    }

    async fn send_body(
        &self,
        method: Method,
        path: &str,
        body: Body,
        accept: &str,
    ) -> anyhow::Result<Response<Incoming>> {
        let content_type = match body {
            Either::Left(_) => JSON,
            Either::Right(_) => "application/octet-stream",
        };

        // The server requires a known `Host`, also on a Unix socket.
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(ACCEPT, accept)
            .header(TE, "trailers")
            .header(CONTENT_TYPE, content_type)
            .body(body)?;
        Ok(self.connect().await?.send_request(request).await?)
    }

    /// Connects to the server after checking that the socket and the server belong to this user.
    async fn connect(&self) -> anyhow::Result<SendRequest<Body>> {
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

/// Returns the sockets at which a server of this user may listen: the default one, and the one that it has recorded.
fn candidate_sockets() -> impl Iterator<Item = PathBuf> {
    std::iter::once(fumehood_server::default_socket()).chain(recorded_socket())
}

/// Returns the socket that the server with this user's state has recorded. It may have been killed since.
pub(super) fn recorded_socket() -> Option<PathBuf> {
    let state = std::env::var_os("FUMEHOOD_STATE").map_or_else(Store::default_path, PathBuf::from);
    Store::recorded_socket(&state)
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

/// Returns a path with query parameters.
pub(crate) fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    format!("{path}?{}", query.finish())
}

/// Returns a response that reports success.
///
/// # Errors
/// The [`Failure`] that the server reports.
async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    if response.status().is_success() {
        return Ok(response);
    }

    let answer = read_json(response).await.unwrap_or_default();
    Err(server_failure(&answer["error"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_leave_their_segment() {
        for name in ["", ".", "..", "../runs", "a/b", "a?b", "a%2e", "a b"] {
            assert!(path_segment(name).is_err(), "{name}");
        }
        assert!(path_segment("sb_0a").is_ok() && path_segment("ci-1.2").is_ok());
    }

    #[test]
    fn paths_in_a_query_are_escaped() {
        let path = with_query("/files", &[("path", "a b&c=é/../x"), ("parents", "true")]);
        assert_eq!(path, "/files?path=a+b%26c%3D%C3%A9%2F..%2Fx&parents=true");
    }
}

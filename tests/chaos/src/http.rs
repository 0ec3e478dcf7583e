//! A client of the server's Unix socket that waits at most as long as it is told to.
//!
//! It speaks HTTP/1.0: the end of a body is the end of the connection, so a stream of events needs no framing, and a
//! connection that a fault cuts is an error and not a panic.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// The largest response that is read.
const MAX_RESPONSE: usize = 64 << 20;

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: u16,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Returns the body as JSON; null if it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A request that has been sent.
#[derive(Debug)]
pub(crate) struct Exchange {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Exchange {
    /// Connects and sends a request.
    ///
    /// # Errors
    /// Fails if there is no server at the socket, or it takes nothing for 30 s.
    pub(crate) fn start(
        socket: &Path,
        method: &str,
        path: &str,
        accept: &str,
        body: &[u8],
    ) -> anyhow::Result<Self> {
        Self::send(
            socket,
            &format!("{method} {path}"),
            &format!("accept: {accept}"),
            body,
        )
    }

    /// Connects and sends a POST request with an idempotency key.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn start_keyed(
        socket: &Path,
        path: &str,
        key: &str,
        body: &[u8],
    ) -> anyhow::Result<Self> {
        let header = format!("idempotency-key: {key}");
        Self::send(socket, &format!("POST {path}"), &header, body)
    }

    fn send(socket: &Path, what: &str, header: &str, body: &[u8]) -> anyhow::Result<Self> {
        let mut stream = UnixStream::connect(socket).context("connection")?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        let head = format!(
            "{what} HTTP/1.0\r\nhost: localhost\r\n{header}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).context("connection")?;
        stream.write_all(body).context("connection")?;

        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Reads until what has been received contains these bytes.
    ///
    /// # Errors
    /// Fails if the response ends first, or at the deadline.
    pub(crate) fn read_until(&mut self, wanted: &str, deadline: Instant) -> anyhow::Result<()> {
        let wanted = wanted.as_bytes();
        while !self.received.windows(wanted.len()).any(|w| w == wanted) {
            ensure!(
                self.read_more(deadline)?,
                "the response ended without {:?}: {}",
                String::from_utf8_lossy(wanted),
                self.text()
            );
        }
        Ok(())
    }

    /// Reads the response to its end.
    ///
    /// # Errors
    /// Fails if the connection breaks before the head is complete, or at the deadline.
    pub(crate) fn finish(mut self, deadline: Instant) -> anyhow::Result<Reply> {
        while self.read_more(deadline)? {}

        let head_end = self.received.windows(4).position(|w| w == b"\r\n\r\n");
        let Some(head_end) = head_end else {
            bail!("connection: it ended before a response");
        };
        let head = String::from_utf8_lossy(&self.received[..head_end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());

        Ok(Reply {
            status: status.with_context(|| format!("not an HTTP response: {head}"))?,
            body: self.received.split_off(head_end + 4),
        })
    }

    /// Closes both directions, as a client that goes away.
    pub(crate) fn shut_down(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Returns what has been received as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// Reads once. Returns false at the end.
    fn read_more(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "no answer within the deadline; received: {}",
            self.text()
        );
        ensure!(self.received.len() < MAX_RESPONSE, "a response without end");

        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(read) => {
                self.received.extend_from_slice(&buffer[..read]);
                Ok(read > 0)
            }
            // The next turn reports the deadline.
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e).context("connection"),
        }
    }
}

/// Sends a request with a JSON body and returns the response.
///
/// # Errors
/// Fails if the connection breaks, or at the deadline.
pub(crate) fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: &Value,
    deadline: Instant,
) -> anyhow::Result<Reply> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };

    Exchange::start(socket, method, path, "application/json", body.as_bytes())?.finish(deadline)
}

use std::time::Duration;

use fumehood_protocol::{
    Decoder, ErrorMessage, ErrorType, Hello, Item, Limits, OpId, Request, Response, WireError,
    constant_time_eq, encode_line,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::agent::{ChannelError, hand_over};
use crate::error::{Error, ErrorKind};
use crate::provision::{AcquiredVm, MemoryReservation};
use crate::vm::Vm;

/// How long a client may take to send its token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the agent may take to switch to the next client. It does so at once, unless a client left more requests
/// behind than the agent reads ahead: those run to their end first.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(330);

/// Size of the buffer for each direction, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// A VM whose agent is served to clients of any language over TCP.
///
/// There is one client at a time. Each one starts a new conversation, in version 0 of the protocol until it sends
/// `hello`.
#[derive(Debug)]
pub struct AgentConnection {
    vm: Vm,
    _reservation: MemoryReservation,
    socket: UnixStream,
}

impl AgentConnection {
    pub(crate) fn new(acquired: AcquiredVm<UnixStream>) -> Self {
        Self {
            vm: acquired.vm,
            _reservation: acquired.reservation,
            socket: acquired.agent,
        }
    }

    /// Returns how long the VM took to be ready.
    #[must_use]
    pub fn start(&self) -> Duration {
        self.vm.start
    }

    /// Serves clients of `listener` until the VM ends. With a token, only clients that send it in a `hello` first are
    /// accepted.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Lost`] when the VM has ended.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        token: Option<String>,
    ) -> Result<(), Error> {
        let mut next = None;
        loop {
            let client = match next.take() {
                Some(client) => client,
                None => tokio::select! {
                    client = accept(&listener) => client,
                    () = self.vm.ended() => return Err(self.lost(&ChannelError::Closed).await),
                },
            };

            match self.serve_client(client, token.as_deref(), &listener).await {
                Ok(waiting) => next = waiting,
                Err(error) => return Err(self.lost(&error).await),
            }
        }
    }

    async fn lost(self, error: &ChannelError) -> Error {
        let diagnosis = self.vm.diagnose().await;
        let message = format!("the VM was lost: {error}; {diagnosis}");
        Error::new(ErrorKind::Lost, message)
    }

    /// Serves one client until it disconnects; returns the next one, if it is connected already. An error is the
    /// agent's, not the client's.
    async fn serve_client(
        &mut self,
        mut client: TcpStream,
        token: Option<&str>,
        listener: &TcpListener,
    ) -> Result<Option<TcpStream>, ChannelError> {
        let _ = client.set_nodelay(true);
        let first = match token {
            None => Vec::new(),
            Some(token) => {
                let authenticated = authenticate(&mut client, token);
                match tokio::time::timeout(TOKEN_TIMEOUT, authenticated).await {
                    Ok(Some(first)) => first,
                    Ok(None) | Err(_) => return Ok(None),
                }
            }
        };

        // End the conversation of the client before.
        hand_over(&mut self.socket, HANDOVER_TIMEOUT).await?;
        self.socket
            .write_all(&first)
            .await
            .map_err(|_| ChannelError::Closed)?;

        bridge(&mut client, &mut self.socket, listener).await
    }
}

/// Accepts the next client. A connection that fails early is not a failure of the listener.
async fn accept(listener: &TcpListener) -> TcpStream {
    const RETRY_DELAY: Duration = Duration::from_millis(100);
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            Err(error) => {
                tracing::warn!(%error, "accepting a client failed");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Copies bytes in both directions, independently, until the client disconnects.
///
/// A client that has sent its end of file still receives answers until the next client connects: a client that has
/// disconnected cannot be distinguished from one that still listens.
async fn bridge(
    client: &mut TcpStream,
    agent: &mut UnixStream,
    listener: &TcpListener,
) -> Result<Option<TcpStream>, ChannelError> {
    let (from_client, to_client) = client.split();
    let (from_agent, to_agent) = agent.split();
    // Both directions are copied independently.
    let requests = copy_until_end(from_client, to_agent);
    let answers = copy_until_end(from_agent, to_client);
    tokio::pin!(requests, answers);

    let mut is_open = true;

    loop {
        tokio::select! {
            end = &mut requests, if is_open => match end {
                CopyEnd::ReadEnded => is_open = false,
                CopyEnd::ReadFailed => return Ok(None),
                CopyEnd::WriteFailed => return Err(ChannelError::Closed),
            },

            end = &mut answers => return match end {
                CopyEnd::WriteFailed => Ok(None),
                CopyEnd::ReadEnded | CopyEnd::ReadFailed => Err(ChannelError::Closed),
            },

            next = accept(listener), if !is_open => return Ok(Some(next)),
        }
    }
}

/// Why copying ended.
enum CopyEnd {
    ReadEnded,
    ReadFailed,
    WriteFailed,
}

async fn copy_until_end(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> CopyEnd {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return CopyEnd::ReadEnded,
            Ok(n) if to.write_all(&buffer[..n]).await.is_err() => return CopyEnd::WriteFailed,
            Ok(_) => {}
            Err(_) => return CopyEnd::ReadFailed,
        }
    }
}

/// Creates a token that cannot be guessed: 256 random bits in hex.
///
/// # Errors
/// Returns [`ErrorKind::Host`] if the operating system provides no randomness.
pub fn fresh_token() -> Result<String, Error> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits)
        .map_err(|e| Error::new(ErrorKind::Host, format!("no randomness: {e}")))?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Rejects all lines of a client until a `hello` contains the token. Returns the bytes to forward to the agent: that
/// `hello` without its token, and the bytes after it. `None`: the client is rejected.
async fn authenticate(client: &mut TcpStream, token: &str) -> Option<Vec<u8>> {
    let limit = usize::try_from(2 * Limits::default().token_bytes + 4096).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new(limit);
    let mut buffer = [0; 4096];

    loop {
        // Check each complete line.
        let n = client.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        let mut bytes = &buffer[..n];
        while let Some(item) = decoder.decode(&mut bytes) {
            let (op_id, is_final) = match check_token(&item, token) {
                TokenCheck::Valid(hello) => {
                    let mut first = encode_line(&Request::Hello(*hello));
                    first.extend_from_slice(bytes);
                    return Some(first);
                }
                TokenCheck::Invalid(op_id) => (op_id, true),
                TokenCheck::NoHello(op_id) => (op_id, false),
            };

            let message = if is_final {
                "the token in `hello` is missing or wrong; the connection is closed"
            } else {
                "send `hello` with the right token first"
            };

            let error = WireError::new(ErrorType::AuthError, message);
            let answer = ErrorMessage::new(op_id, error, env!("CARGO_PKG_VERSION"));
            client
                .write_all(&encode_line(&Response::Error(answer)))
                .await
                .ok()?;

            if is_final {
                return None;
            }
        }
    }
}

/// The check of a line from a client that is not authenticated.
enum TokenCheck {
    /// A `hello` with the token, which is removed from it.
    Valid(Box<Hello>),
    Invalid(Option<OpId>),
    NoHello(Option<OpId>),
}

fn check_token(item: &Item, token: &str) -> TokenCheck {
    let Item::Line(line) = item else {
        return TokenCheck::NoHello(None);
    };

    match Request::parse(line) {
        Ok(Request::Hello(hello)) => {
            let given = hello.token.as_deref();
            let is_valid =
                given.is_some_and(|given| constant_time_eq(token.as_bytes(), given.as_bytes()));
            if is_valid {
                TokenCheck::Valid(Box::new(Hello {
                    token: None,
                    ..hello
                }))
            } else {
                TokenCheck::Invalid(hello.op_id)
            }
        }
        Ok(other) => TokenCheck::NoHello(other.op_id()),
        Err(rejected) => TokenCheck::NoHello(rejected.op_id),
    }
}

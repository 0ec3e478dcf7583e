use std::time::Duration;

use fumehood_protocol::{
    Decoder, ErrorMessage, ErrorType, Hello, Item, Limits, OpId, Request, Response, WireError,
    constant_time_eq, encode_line,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::agent::{ChannelError, say_hello};
use crate::error::{Error, ErrorKind};
use crate::provision::{AcquiredVm, MemoryReservation};
use crate::vm::Vm;

/// How long a client may take to say its token.
const GREETING: Duration = Duration::from_secs(10);

/// How long the agent may take to turn from one client to the next. It does so at once, but for a
/// client that left more requests behind than the agent reads ahead: those run to their end first.
const HANDOVER: Duration = Duration::from_secs(330);

/// Bytes carried at once in each direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// A VM whose agent is spoken to by somebody else: a client in any language, over TCP.
///
/// One client at a time; the next begins a new conversation, in version 0 until it says `hello`.
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

    /// How long the VM took to be ready.
    #[must_use]
    pub fn start(&self) -> Duration {
        self.vm.start
    }

    /// Serves clients of `listener` until the VM ends; with a token, only those who say it in a
    /// `hello` first.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`], when the VM has ended.
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
            match self.client(client, token.as_deref(), &listener).await {
                Ok(waiting) => next = waiting,
                Err(error) => return Err(self.lost(&error).await),
            }
        }
    }

    async fn lost(self, error: &ChannelError) -> Error {
        let known = self.vm.diagnose().await;
        Error::new(ErrorKind::Lost, format!("the VM is lost: {error}; {known}"))
    }

    /// One client, until it goes; returns the next one, if that is there already. An error is the
    /// agent's, not the client's.
    async fn client(
        &mut self,
        mut client: TcpStream,
        token: Option<&str>,
        listener: &TcpListener,
    ) -> Result<Option<TcpStream>, ChannelError> {
        let _ = client.set_nodelay(true);
        let first = match token {
            None => Vec::new(),
            Some(token) => match tokio::time::timeout(GREETING, admit(&mut client, token)).await {
                Ok(Some(first)) => first,
                Ok(None) | Err(_) => return Ok(None),
            },
        };
        say_hello(&mut self.socket, 0, &[], None, HANDOVER).await?;
        self.socket
            .write_all(&first)
            .await
            .map_err(|_| ChannelError::Closed)?;
        bridge(&mut client, &mut self.socket, listener).await
    }
}

/// The next client. A connection that fails before it is there is no failure of the listener's.
async fn accept(listener: &TcpListener) -> TcpStream {
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            Err(error) => {
                tracing::warn!(%error, "a client could not be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Carries bytes both ways, each for itself, until the client goes.
///
/// A client that has said its last (its end of file) still gets answers, until the next client
/// comes: one that has gone for good cannot be told from one that listens.
async fn bridge(
    client: &mut TcpStream,
    agent: &mut UnixStream,
    listener: &TcpListener,
) -> Result<Option<TcpStream>, ChannelError> {
    let (from_client, to_client) = client.split();
    let (from_agent, to_agent) = agent.split();
    let requests = copy_until_end(from_client, to_agent);
    let answers = copy_until_end(from_agent, to_client);
    tokio::pin!(requests, answers);
    let mut open = true;
    loop {
        tokio::select! {
            end = &mut requests, if open => match end {
                CopyEnd::ReadEnded => open = false,
                CopyEnd::ReadFailed => return Ok(None),
                CopyEnd::WriteFailed => return Err(ChannelError::Closed),
            },
            end = &mut answers => return match end {
                CopyEnd::WriteFailed => Ok(None),
                CopyEnd::ReadEnded | CopyEnd::ReadFailed => Err(ChannelError::Closed),
            },
            next = accept(listener), if !open => return Ok(Some(next)),
        }
    }
}

/// Why bytes are carried no further.
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

/// A token that cannot be guessed: 256 random bits in hex.
///
/// # Errors
/// [`ErrorKind::Host`] when the operating system gives no randomness.
pub fn fresh_token() -> Result<String, Error> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits)
        .map_err(|e| Error::new(ErrorKind::Host, format!("no randomness: {e}")))?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Refuses every line of a client until a `hello` holds the token; returns what goes on to the
/// agent: that `hello` without its token, and whatever came with it. `None`: the client is not let in.
async fn admit(client: &mut TcpStream, token: &str) -> Option<Vec<u8>> {
    let limit = usize::try_from(2 * Limits::default().token_bytes + 4096).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new(limit);
    let mut buffer = [0; 4096];
    loop {
        let n = client.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        let mut bytes = &buffer[..n];
        while let Some(item) = decoder.decode(&mut bytes) {
            let (op_id, wrong) = match check_hello(&item, token) {
                ClientHello::Right(hello) => {
                    let mut first = encode_line(&Request::Hello(*hello));
                    first.extend_from_slice(bytes);
                    return Some(first);
                }
                ClientHello::Wrong(op_id) => (op_id, true),
                ClientHello::Other(op_id) => (op_id, false),
            };
            let message = if wrong {
                "the token in `hello` is missing or wrong; the connection is closed"
            } else {
                "say `hello` with the right token first"
            };
            let refusal = WireError::new(ErrorType::AuthError, message);
            let refusal = ErrorMessage::new(op_id, refusal, env!("CARGO_PKG_VERSION"));
            client
                .write_all(&encode_line(&Response::Error(refusal)))
                .await
                .ok()?;
            if wrong {
                return None;
            }
        }
    }
}

/// What a client's line is worth before it is let in.
enum ClientHello {
    /// A `hello` with the token, which is taken out of it.
    Right(Box<Hello>),
    Wrong(Option<OpId>),
    Other(Option<OpId>),
}

fn check_hello(item: &Item, token: &str) -> ClientHello {
    let Item::Line(line) = item else {
        return ClientHello::Other(None);
    };
    match Request::parse(line) {
        Ok(Request::Hello(hello))
            if hello
                .token
                .as_deref()
                .is_some_and(|given| constant_time_eq(token.as_bytes(), given.as_bytes())) =>
        {
            ClientHello::Right(Box::new(Hello {
                token: None,
                ..hello
            }))
        }
        Ok(Request::Hello(hello)) => ClientHello::Wrong(hello.op_id),
        Ok(other) => ClientHello::Other(other.op_id()),
        Err(refusal_error) => ClientHello::Other(refusal_error.op_id),
    }
}

use std::time::Duration;

use fumehood_protocol::{
    Decoder, ErrorMessage, ErrorType, Hello, Item, Limits, Request, Response, WireError,
    encode_line,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::admission::Place;
use crate::channel::ChannelError;
use crate::error::{Error, ErrorKind};
use crate::greeting::greet;
use crate::launch::Vm;

/// How long a client may take to say its token, and the agent to begin a new conversation.
const GREETING: Duration = Duration::from_secs(10);

/// Bytes carried at once in each direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// A VM whose agent is spoken to by somebody else: a client in any language, over TCP.
///
/// One client at a time; the next begins a new conversation, in version 0 until it says `hello`.
#[derive(Debug)]
pub struct AgentLine {
    vm: Vm,
    _place: Place,
    socket: UnixStream,
}

impl AgentLine {
    pub(crate) fn new(vm: Vm, place: Place, socket: UnixStream) -> Self {
        Self {
            vm,
            _place: place,
            socket,
        }
    }

    /// How long the VM took to boot.
    #[must_use]
    pub fn boot(&self) -> Duration {
        self.vm.boot
    }

    /// Serves clients of `listener` until the VM ends; with a token, only those whose first line is
    /// a `hello` that holds it.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] when the VM ends, [`ErrorKind::Host`] when the listener does.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        token: Option<String>,
    ) -> Result<(), Error> {
        loop {
            let (client, address) = listener.accept().await.map_err(|e| {
                Error::new(
                    ErrorKind::Host,
                    format!("no more connections are to be had: {e}"),
                )
            })?;
            tracing::debug!(%address, "a client has come");
            if let Err(error) = self.client(client, token.as_deref()).await {
                let known = self.vm.post_mortem().await;
                return Err(Error::new(
                    ErrorKind::Lost,
                    format!("the VM is lost: {error}; {known}"),
                ));
            }
        }
    }

    /// One client, until it goes. An error is the agent's, not the client's.
    async fn client(
        &mut self,
        mut client: TcpStream,
        token: Option<&str>,
    ) -> Result<(), ChannelError> {
        let _ = client.set_nodelay(true);
        let first = match token {
            None => Vec::new(),
            Some(token) => match tokio::time::timeout(GREETING, admit(&mut client, token)).await {
                Ok(Ok(first)) => first,
                Ok(Err(refusal)) => {
                    let message = ErrorMessage::new(None, refusal, env!("CARGO_PKG_VERSION"));
                    let _ = client
                        .write_all(&encode_line(&Response::Error(message)))
                        .await;
                    return Ok(());
                }
                Err(_) => return Ok(()),
            },
        };
        greet(&mut self.socket, 0, &[], GREETING).await?;
        if self.socket.write_all(&first).await.is_err() {
            return Err(ChannelError::Closed);
        }
        bridge(&mut client, &mut self.socket).await
    }
}

/// Carries bytes both ways until the client goes.
///
/// A client that has said its last (its end of file) still gets answers, until none has come for
/// [`SILENCE`]: a client that has gone for good cannot be told from one that listens.
async fn bridge(client: &mut TcpStream, agent: &mut UnixStream) -> Result<(), ChannelError> {
    const SILENCE: Duration = Duration::from_secs(5);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_agent, mut to_agent) = agent.split();
    let mut requests = vec![0; BUFFER_BYTES];
    let mut answers = vec![0; BUFFER_BYTES];
    let mut open = true;
    loop {
        tokio::select! {
            n = from_client.read(&mut requests), if open => match n {
                Ok(0) => open = false,
                Ok(n) => to_agent.write_all(&requests[..n]).await.map_err(|_| ChannelError::Closed)?,
                Err(_) => return Ok(()),
            },
            n = from_agent.read(&mut answers) => match n {
                Ok(n @ 1..) if to_client.write_all(&answers[..n]).await.is_ok() => {}
                Ok(1..) => return Ok(()),
                Ok(0) | Err(_) => return Err(ChannelError::Closed),
            },
            () = tokio::time::sleep(SILENCE), if !open => return Ok(()),
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

/// Reads a client's first line and returns what goes on to the agent: that line without the
/// token, and whatever came with it.
async fn admit(client: &mut TcpStream, token: &str) -> Result<Vec<u8>, WireError> {
    let refuse = |message: &str| Err(WireError::new(ErrorType::AuthError, message));
    let limit = usize::try_from(2 * Limits::default().token_bytes + 4096).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new(limit);
    let mut buffer = [0; 4096];
    loop {
        let n = match client.read(&mut buffer).await {
            Ok(0) | Err(_) => return refuse("the first line did not come"),
            Ok(n) => n,
        };
        let mut bytes = &buffer[..n];
        let Some(item) = decoder.decode(&mut bytes) else {
            continue;
        };
        let Item::Line(line) = item else {
            return refuse("the first line is too long for a hello");
        };
        return match Request::parse(&line) {
            Ok(Request::Hello(hello))
                if hello
                    .token
                    .as_deref()
                    .is_some_and(|given| equal(given, token)) =>
            {
                let mut first = encode_line(&Request::Hello(Hello {
                    token: None,
                    ..hello
                }));
                first.extend_from_slice(bytes);
                Ok(first)
            }
            Ok(Request::Hello(_)) => refuse("the token is wrong"),
            _ => refuse("the first request must be a hello with the token"),
        };
    }
}

/// Compares without telling by its time where the first difference is.
fn equal(given: &str, token: &str) -> bool {
    given.len() == token.len()
        && given
            .bytes()
            .zip(token.bytes())
            .fold(0, |all, (a, b)| all | (a ^ b))
            == 0
}

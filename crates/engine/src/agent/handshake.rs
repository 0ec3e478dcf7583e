use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fumehood_protocol::{
    ActionTag, Decoder, EnvVars, Hello, HelloReply, Item, Limits, OpId, Refresh, Request, Response,
    encode_line,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::routes::{ChannelError, LINE_BYTES};

/// Maximum bytes of an earlier conversation that may still be in flight: more than any queue between host and guest
/// holds.
const MAX_STALE_BYTES: usize = 8 * 1024 * 1024;

/// Starts a conversation with the agent. Whatever was sent on this socket before is over, and bytes of it that are
/// still in flight are skipped. With `refresh`, the guest also gets its own identity; it must not be used unless the
/// agent confirms that.
///
/// # Errors
/// Returns [`ChannelError`].
pub(crate) async fn say_hello(
    socket: &mut UnixStream,
    protocol: u32,
    features: &[&str],
    refresh: Option<&Refresh>,
    deadline: Duration,
) -> Result<HelloReply, ChannelError> {
    greet(
        socket,
        protocol,
        features,
        refresh,
        deadline,
        MAX_STALE_BYTES,
    )
    .await
}

/// Starts the conversation of the next client, in version 0. Requests that the client before has left run to their end
/// first: only the deadline bounds what their programs may still send, which is skipped.
///
/// # Errors
/// Returns [`ChannelError`].
pub(crate) async fn hand_over(
    socket: &mut UnixStream,
    deadline: Duration,
) -> Result<(), ChannelError> {
    greet(socket, 0, &[], None, deadline, usize::MAX)
        .await
        .map(drop)
}

async fn greet(
    socket: &mut UnixStream,
    protocol: u32,
    features: &[&str],
    refresh: Option<&Refresh>,
    deadline: Duration,
    max_stale_bytes: usize,
) -> Result<HelloReply, ChannelError> {
    let nonce =
        nonce().ok_or_else(|| ChannelError::Violation("no randomness for a nonce".into()))?;
    let hello = Request::Hello(Hello {
        protocol,
        nonce: Some(nonce.clone()),
        features: features.iter().map(ToString::to_string).collect(),
        ..Hello::default()
    });

    // The newline ends an incomplete line of an earlier conversation.
    let mut lines = vec![b'\n'];
    lines.extend(encode_line(&hello));

    if let Some(refresh) = refresh {
        lines.extend(encode_line(&Request::Refresh(refresh.clone())));
    }

    let conversation = async {
        socket
            .write_all(&lines)
            .await
            .map_err(|_| ChannelError::Closed)?;
        read_hello_reply(socket, &nonce, refresh.is_some(), max_stale_bytes).await
    };

    tokio::time::timeout(deadline, conversation)
        .await
        .map_err(|_| ChannelError::Silent(deadline))?
}

/// Continues the conversation in which a guest's state was saved: the guest gets its own identity, and needs no other
/// greeting. What was in flight when the state was saved, a partial line or an answer, is skipped: the answer to this
/// `refresh` is recognized by its random operation id.
///
/// # Errors
/// Returns [`ChannelError`]; the guest must not be used.
pub(crate) async fn resume_with_refresh(
    socket: &mut UnixStream,
    refresh: &Refresh,
    deadline: Duration,
) -> Result<(), ChannelError> {
    let no_randomness = |_| ChannelError::Violation("no randomness for an operation id".into());
    let random = getrandom::u64().map_err(no_randomness)?;
    let op_id = OpId::try_from(random & OpId::MAX).ok();
    let refresh = Refresh {
        op_id,
        ..refresh.clone()
    };

    let conversation = async {
        // The newline ends an incomplete line of the saved conversation.
        let mut line = vec![b'\n'];
        line.extend(encode_line(&Request::Refresh(refresh)));
        let sent = socket.write_all(&line).await;
        sent.map_err(|_| ChannelError::Closed)?;
        read_refresh_answer(socket, op_id).await
    };

    tokio::time::timeout(deadline, conversation)
        .await
        .map_err(|_| ChannelError::Silent(deadline))?
}

/// Skips to the answer of the refresh with this operation id.
async fn read_refresh_answer(
    socket: &mut UnixStream,
    op_id: Option<OpId>,
) -> Result<(), ChannelError> {
    let mut decoder = Decoder::new(LINE_BYTES);
    let mut buffer = [0; 4096];
    let mut stale = 0;

    loop {
        let read = socket.read(&mut buffer).await;
        let n = read.map_err(|_| ChannelError::Closed)?;
        stale += check_read(n, stale, MAX_STALE_BYTES)?;

        let mut bytes = &buffer[..n];
        while let Some(item) = decoder.decode(&mut bytes) {
            let Item::Line(line) = item else { continue };
            let Ok(answer) = Response::parse(&line) else {
                continue;
            };

            // Other answers are left over from the saved conversation.
            let answer_id = match &answer {
                Response::Refreshed(refreshed) => refreshed.op_id,
                Response::Error(refusal) => refusal.op_id,
                _ => continue,
            };

            if answer_id == op_id {
                check_refreshed(answer)?;
                return check_nothing_follows(bytes);
            }
        }
    }
}

/// Checks a read after `stale` bytes: the socket is open, and the skipped bytes are bounded.
fn check_read(read: usize, stale: usize, max_stale_bytes: usize) -> Result<usize, ChannelError> {
    match read {
        0 => Err(ChannelError::Closed),
        _ if stale > max_stale_bytes => {
            let what = format!("more than {max_stale_bytes} bytes without a greeting");
            Err(ChannelError::Violation(what))
        }
        _ => Ok(read),
    }
}

/// An agent sends nothing that was not requested.
fn check_nothing_follows(bytes: &[u8]) -> Result<(), ChannelError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let what = "unrequested bytes after the greeting";
    Err(ChannelError::Violation(what.into()))
}

/// Skips to the answer of `hello`, and reads the one of `refresh` after it if there was one.
async fn read_hello_reply(
    socket: &mut UnixStream,
    nonce: &str,
    with_refresh: bool,
    max_stale_bytes: usize,
) -> Result<HelloReply, ChannelError> {
    let mut decoder = Decoder::new(LINE_BYTES);
    let mut buffer = [0; 4096];
    let mut stale = 0;
    let mut greeting: Option<HelloReply> = None;

    loop {
        let n = socket
            .read(&mut buffer)
            .await
            .map_err(|_| ChannelError::Closed)?;
        stale += check_read(n, stale, max_stale_bytes)?;

        let mut bytes = &buffer[..n];
        while let Some(item) = decoder.decode(&mut bytes) {
            let Item::Line(line) = item else { continue };
            let reply = match greeting.take() {
                // The line after the greeting answers the refresh.
                Some(reply) => {
                    let unreadable = |_| ChannelError::Violation(UNREQUESTED.into());
                    check_refreshed(Response::parse(&line).map_err(unreadable)?)?;
                    reply
                }
                None => match find_hello_reply(&line, nonce) {
                    Some(reply) if !with_refresh => reply,
                    reply => {
                        greeting = reply;
                        continue;
                    }
                },
            };

            return check_nothing_follows(bytes).map(|()| reply);
        }
    }
}

const UNREQUESTED: &str = "an answer without a request";

/// Checks that the agent confirms a refresh.
fn check_refreshed(answer: Response) -> Result<(), ChannelError> {
    let what = match answer {
        Response::Refreshed(_) => return Ok(()),
        Response::Error(refusal) => format!("the refresh failed: {}", refusal.message),
        _ => UNREQUESTED.into(),
    };
    Err(ChannelError::Violation(what))
}

/// Settings that a guest gets besides its identity. A field that is none leaves the setting unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GuestInit {
    /// Certificate authorities that its programs trust, in PEM.
    pub(crate) certificates: Option<String>,
    /// Environment variables of its programs.
    pub(crate) environment: Option<EnvVars>,
    /// The machine id and host name that it keeps; none = new ones.
    pub(crate) identity: Option<(String, String)>,
}

impl GuestInit {
    /// Nothing besides the identity.
    pub(crate) const NONE: Self = Self {
        certificates: None,
        environment: None,
        identity: None,
    };
}

/// Creates the identity of a guest: the current time, new randomness, a name.
///
/// # Errors
/// Returns a sentence if this host has no randomness or no clock.
pub(crate) fn new_refresh(limits: &Limits, init: &GuestInit) -> Result<Refresh, String> {
    let no_randomness = |e| format!("this host provides no randomness: {e}");
    let mut random = [0; ENTROPY_BYTES + MACHINE_ID_BYTES];
    getrandom::fill(&mut random).map_err(no_randomness)?;
    let (entropy, machine_id) = random.split_at(ENTROPY_BYTES);
    let machine_id = hex(machine_id);
    let new_identity = || {
        let hostname = format!("fumehood-{}", &machine_id[..HOSTNAME_DIGITS]);
        (machine_id.clone(), hostname)
    };
    let (machine_id, hostname) = init.identity.clone().unwrap_or_else(new_identity);

    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| "this host's clock is set to a time before 1970; set it")?;

    Ok(Refresh {
        action: ActionTag,
        op_id: None,
        wall_clock_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
        entropy: hex(entropy),
        hostname,
        machine_id,
        limits: limits.changed(),
        certificates: init.certificates.clone(),
        environment: init.environment.clone(),
    })
}

/// Entropy of one refresh, in bytes: twice a ChaCha20 key.
const ENTROPY_BYTES: usize = 64;
const MACHINE_ID_BYTES: usize = 16;
/// Number of digits of the machine id in a guest's name.
const HOSTNAME_DIGITS: usize = 8;

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| {
        [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]
    });

    digits.map(char::from).collect()
}

/// Finds the answer of `hello` at the end of a line. The rest of a raw frame, which does not end with a newline, may
/// precede it.
fn find_hello_reply(line: &[u8], nonce: &str) -> Option<HelloReply> {
    const START: &[u8] = br#"{"type":"hello""#;
    let at = line
        .windows(START.len())
        .rposition(|window| window == START)?;

    match Response::parse(&line[at..]) {
        Ok(Response::Hello(reply)) if reply.nonce.as_deref() == Some(nonce) => Some(reply),
        _ => None,
    }
}

/// Returns 128 random bits in hex.
fn nonce() -> Option<String> {
    let (a, b) = (getrandom::u64().ok()?, getrandom::u64().ok()?);
    Some(format!("{a:016x}{b:016x}"))
}

#[cfg(test)]
mod tests {
    use fumehood_protocol::{ErrorMessage, ErrorType, Refreshed, WireError};
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    const REFRESHED: &[u8] = b"{\"type\":\"refreshed\",\"boot_id\":\"x\"}\n";

    async fn greeted(before: &'static [u8], after: &'static [u8]) -> Result<(), ChannelError> {
        let mut socket = agent(before, after);
        let refresh = new_refresh(&Limits::default(), &GuestInit::NONE).unwrap();
        say_hello(&mut socket, 1, &[], Some(&refresh), DEADLINE)
            .await
            .map(drop)
    }

    #[test]
    fn refreshes_are_valid_and_differ() {
        let (one, other) = (
            new_refresh(&Limits::default(), &GuestInit::NONE).unwrap(),
            new_refresh(&Limits::default(), &GuestInit::NONE).unwrap(),
        );
        assert_eq!(one.check().unwrap().len(), ENTROPY_BYTES);
        assert_ne!(one.entropy, other.entropy);
        assert_ne!(one.machine_id, other.machine_id);
    }

    /// Plays an agent: answers `hello`, with `before` and `after` around the answer.
    fn agent(before: &'static [u8], after: &'static [u8]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut lines = BufReader::new(reader).lines();
            assert_eq!(lines.next_line().await.unwrap().unwrap(), "");
            let line = lines.next_line().await.unwrap().unwrap();
            let Ok(Request::Hello(hello)) = Request::parse(line.as_bytes()) else {
                panic!("no hello")
            };

            let reply = Response::Hello(HelloReply {
                op_id: None,
                version: "0".into(),
                protocol: 1,
                features: Vec::new(),
                boot_id: "x".into(),
                nonce: hello.nonce,
            });

            let answer = [before, &encode_line(&reply), after].concat();
            writer.write_all(&answer).await.unwrap();

            while let Ok(Some(_)) = lines.next_line().await {}
        });

        ours
    }

    #[tokio::test]
    async fn stale_bytes_are_skipped() {
        let stale: [&[u8]; 4] = [
            b"",
            b"half a line\n",
            b"{\"type\":\"hello\",\"version\":\"0\",\"protocol\":1,\"features\":[],\"boot_id\":\"x\",\"nonce\":\"old\"}\n",
            b"the rest of a frame \xff",
        ];

        for before in stale {
            greeted(before, REFRESHED).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_next_client_waits_for_all_output_of_the_one_before() {
        let stale: &'static [u8] = vec![b'\n'; MAX_STALE_BYTES + 8192].leak();
        hand_over(&mut agent(stale, b""), DEADLINE).await.unwrap();

        let error = greeted(stale, REFRESHED).await.unwrap_err();
        assert!(matches!(error, ChannelError::Violation(_)), "{error}");
    }

    #[tokio::test]
    async fn other_answers_to_a_refresh_are_violations() {
        let answers: [&[u8]; 3] = [
            b"{\"type\":\"refreshed\",\"boot_id\":\"x\"}\nmore",
            b"{\"type\":\"error\",\"message\":\"no clock\",\"error_type\":\"agent_error\"}\n",
            b"{\"type\":\"pong\",\"version\":\"0\"}\n",
        ];

        for after in answers {
            let error = greeted(b"", after).await.unwrap_err();
            assert!(matches!(error, ChannelError::Violation(_)), "{error}");
        }
    }

    /// Resumes a conversation with an agent that answers a `refresh` like this.
    async fn resumed(answer: fn(Option<OpId>) -> Vec<u8>) -> Result<(), ChannelError> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut lines = BufReader::new(reader).lines();
            assert_eq!(lines.next_line().await.unwrap().unwrap(), "");
            let line = lines.next_line().await.unwrap().unwrap();
            let Ok(Request::Refresh(request)) = Request::parse(line.as_bytes()) else {
                panic!("no refresh")
            };

            writer.write_all(&answer(request.op_id)).await.unwrap();
        });

        resume_with_refresh(
            &mut ours,
            &new_refresh(&Limits::default(), &GuestInit::NONE).unwrap(),
            DEADLINE,
        )
        .await
    }

    fn refreshed(op_id: Option<OpId>) -> Vec<u8> {
        let boot_id = "x".to_string();
        encode_line(&Response::Refreshed(Refreshed { op_id, boot_id }))
    }

    #[tokio::test]
    async fn a_conversation_continues_only_with_the_answer_to_its_own_refresh() {
        resumed(refreshed).await.unwrap();
        // What was in flight when the state was saved.
        resumed(|op_id| [b"half a line\n".as_slice(), &refreshed(op_id)].concat())
            .await
            .unwrap();

        resumed(|op_id| [REFRESHED, &refreshed(op_id)].concat())
            .await
            .unwrap();

        let error = resumed(|_| REFRESHED.to_vec()).await.unwrap_err();
        assert!(matches!(error, ChannelError::Closed), "{error}");
        let more = |op_id| [refreshed(op_id), b"{".to_vec()].concat();
        let error = resumed(more).await.unwrap_err();
        assert!(matches!(error, ChannelError::Violation(_)), "{error}");
        let refusal_error = |op_id| {
            let error = WireError::new(ErrorType::AgentError, "no clock".to_string());
            encode_line(&Response::Error(ErrorMessage::new(op_id, error, "0")))
        };

        let error = resumed(refusal_error).await.unwrap_err();
        assert!(matches!(error, ChannelError::Violation(_)), "{error}");
    }

    #[tokio::test]
    async fn a_silent_agent_times_out() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let refresh = new_refresh(&Limits::default(), &GuestInit::NONE).unwrap();
        let deadline = Duration::from_millis(20);
        let error = say_hello(&mut ours, 1, &[], Some(&refresh), deadline)
            .await
            .unwrap_err();

        assert!(matches!(error, ChannelError::Silent(_)), "{error}");
    }
}

use std::time::Duration;

use fumehood_protocol::{Decoder, Hello, HelloReply, Item, Request, Response, encode_line};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::channel::{ChannelError, LINE_BYTES};

/// Begins a conversation with the agent at the other end: whatever was said on this line before is
/// over, and bytes of it that are still under way are skipped.
///
/// # Errors
/// [`ChannelError`].
pub(crate) async fn greet(
    socket: &mut UnixStream,
    protocol: u32,
    features: &[&str],
    deadline: Duration,
) -> Result<HelloReply, ChannelError> {
    let nonce =
        nonce().ok_or_else(|| ChannelError::Violation("no randomness for a nonce".into()))?;
    let hello = Request::Hello(Hello {
        protocol,
        nonce: Some(nonce.clone()),
        features: features.iter().map(ToString::to_string).collect(),
        ..Hello::default()
    });
    // The newline ends whatever line was begun before.
    let mut line = vec![b'\n'];
    line.extend(encode_line(&hello));
    let conversation = async {
        socket
            .write_all(&line)
            .await
            .map_err(|_| ChannelError::Closed)?;
        skip_to(socket, &nonce).await
    };
    tokio::time::timeout(deadline, conversation)
        .await
        .map_err(|_| ChannelError::Silent(deadline))?
}

async fn skip_to(socket: &mut UnixStream, nonce: &str) -> Result<HelloReply, ChannelError> {
    let mut decoder = Decoder::new(LINE_BYTES);
    let mut buffer = [0; 4096];
    loop {
        let n = socket
            .read(&mut buffer)
            .await
            .map_err(|_| ChannelError::Closed)?;
        if n == 0 {
            return Err(ChannelError::Closed);
        }
        let mut bytes = &buffer[..n];
        while let Some(item) = decoder.decode(&mut bytes) {
            let Item::Line(line) = item else { continue };
            let Some(reply) = reply_in(&line, nonce) else {
                continue;
            };
            // An agent says nothing unasked.
            return if bytes.is_empty() {
                Ok(reply)
            } else {
                Err(ChannelError::Violation(
                    "bytes that nobody asked for, after its greeting".into(),
                ))
            };
        }
    }
}

/// The answer at the end of this line. The rest of a raw frame, which ends with no newline, may
/// stand before it.
fn reply_in(line: &[u8], nonce: &str) -> Option<HelloReply> {
    const BEGIN: &[u8] = br#"{"type":"hello""#;
    let at = line
        .windows(BEGIN.len())
        .rposition(|window| window == BEGIN)?;
    match Response::parse(&line[at..]) {
        Ok(Response::Hello(reply)) if reply.nonce.as_deref() == Some(nonce) => Some(reply),
        _ => None,
    }
}

/// 128 random bits in hex.
fn nonce() -> Option<String> {
    let (a, b) = (getrandom::u64().ok()?, getrandom::u64().ok()?);
    Some(format!("{a:016x}{b:016x}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

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
            greet(&mut agent(before, b""), 1, &[], DEADLINE)
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn bytes_after_the_answer_are_a_violation() {
        let error = greet(&mut agent(b"", b"more"), 1, &[], DEADLINE)
            .await
            .unwrap_err();
        assert!(matches!(error, ChannelError::Violation(_)), "{error}");
    }

    #[tokio::test]
    async fn an_agent_that_says_nothing_is_given_up() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let error = greet(&mut ours, 1, &[], Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(matches!(error, ChannelError::Silent(_)), "{error}");
    }
}

//! Checks that the proxy forwards only requests that were checked.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::runtime::wait_for;
use crate::http::{
    ANSWER_TIMEOUT, Connector, Proxy, RequestFilter, RequestHead, RequestObserver, RequestRecord,
    Scheme,
};
use crate::policy::RuleId;
use crate::refusal::Refusal;
use crate::stream::Stream;

const HOST: &str = "example.com";

/// The only method that is denied.
const DENIED: &str = "DELETE";

/// Longer than all deadlines of the proxy, except that of an upgraded connection.
const LONG_WAIT: Duration = Duration::from_secs(3000);

/// The methods and paths of the requests that were allowed.
#[derive(Default)]
struct Allowed(Mutex<HashSet<(String, String)>>);

impl RequestFilter for Allowed {
    fn check(&self, request: &RequestHead<'_>) -> Result<Option<RuleId>, Refusal> {
        if request.host != HOST || request.method == DENIED {
            return Err(Refusal::new("not_allowed", "no"));
        }
        let line = (request.method.to_owned(), request.path.to_owned());
        self.0.lock().expect("no panic").insert(line);
        Ok(None)
    }
}

impl RequestObserver for Allowed {
    fn finished(&self, _: RequestRecord) {}
}

/// The first byte selects the scheme and how the connection ends. A zero separates the bytes of the guest from those of
/// the server.
pub(super) fn pass(bytes: &[u8]) {
    let Some((how, said)) = bytes.split_first() else {
        return;
    };
    let mut sides = said.splitn(2, |byte| *byte == 0);
    let (guest, server) = (sides.next().unwrap_or_default(), sides.next());
    wait_for(exchange(*how, guest, server.unwrap_or_default()));
}

async fn exchange(how: u8, said: &[u8], answer: &[u8]) {
    // The servers are the far ends of the streams that the proxy opens.
    let (asks, servers) = mpsc::unbounded_channel();
    let connect: Connector = Box::new(move || {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let _ = asks.send(far);
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Stream>) })
    });

    let allowed = Arc::new(Allowed::default());
    let proxy = Proxy {
        scheme: match how & 1 {
            0 => Scheme::Plain,
            _ => Scheme::Tls(HOST.to_owned()),
        },
        filter: allowed.clone(),
        observer: allowed.clone(),
        secrets: Arc::default(),
        answer_timeout: ANSWER_TIMEOUT,
        connect,
    };

    // The guest sends its bytes and reads until the proxy closes.
    let (mut guest, near) = tokio::io::duplex(64 * 1024);
    let proxy = tokio::spawn(proxy.serve(near));
    let servers = tokio::spawn(serve_all(servers, answer.to_vec(), how & 2 != 0));
    let _ = guest.write_all(said).await;

    if how & 4 != 0 {
        let _ = guest.shutdown().await;
    }

    let mut received_by_guest = Vec::new();
    let reading = guest.read_to_end(&mut received_by_guest);
    let _ = tokio::time::timeout(LONG_WAIT, reading).await;
    drop(guest);
    let ended = tokio::time::timeout(LONG_WAIT * 2, proxy).await;
    let _ = ended
        .expect("a proxy whose guest is gone ends")
        .expect("no panic");

    for received in servers.await.expect("no panic") {
        assert_checked(&received, &allowed);
    }
}

/// Returns everything that each connection received.
async fn serve_all(
    mut servers: mpsc::UnboundedReceiver<DuplexStream>,
    answer: Vec<u8>,
    closes: bool,
) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(mut server) = servers.recv().await {
        let (mut received, mut answered) = (Vec::new(), false);
        while let Ok(1..) = server.read_buf(&mut received).await {
            if !answered && find(&received, END).is_some() {
                answered = true;
                let _ = server.write_all(&answer).await;
                if closes {
                    let _ = server.shutdown().await;
                }
            }
        }

        all.push(received);
    }

    all
}

const END: &[u8] = b"\r\n\r\n";

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}

/// Asserts that every request that a strict parser finds was checked.
fn assert_checked(mut bytes: &[u8], allowed: &Allowed) {
    while let Some(end) = find(bytes, END) {
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + END.len()..];
        let mut words = head.split(' ');
        let line = [words.next(), words.next()].map(|word| word.unwrap_or_default().to_owned());
        let [method, path] = line;
        let field = |name: &str| {
            let lines = head.split("\r\n").skip(1);
            let fields = lines.filter_map(|line| line.split_once(": "));
            let mut values = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            let value = values.next().map(|(_, value)| value);
            assert!(values.next().is_none(), "two of {name}: {head}");
            value
        };

        let host = field("host").unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        assert!(
            host.eq_ignore_ascii_case(HOST) && method != DENIED,
            "{head}"
        );

        let was_checked = allowed
            .0
            .lock()
            .expect("no panic")
            .contains(&(method, path));
        assert!(was_checked, "sent without a check: {head}");
        if field("upgrade").is_some() {
            return;
        }

        let body = match (field("transfer-encoding"), field("content-length")) {
            (Some(_), Some(_)) => panic!("two lengths: {head}"),
            (Some(coding), None) => {
                assert!(coding.eq_ignore_ascii_case("chunked"), "{head}");
                chunked_length(bytes)
            }
            (None, Some(length)) => length.parse().ok(),
            (None, None) => Some(0),
        };

        // The rest is missing.
        let Some(rest) = body.and_then(|length| bytes.get(length..)) else {
            return;
        };

        bytes = rest;
    }
}

/// Returns the length of a chunked body; `None` if it is incomplete.
fn chunked_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = bytes.get(at..)?;
        let end = find(line, b"\r\n")?;
        let size = std::str::from_utf8(&line[..end]).expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        at += end + 2 + size + 2;

        if size == 0 {
            return (at <= bytes.len()).then_some(at);
        }
    }
}

mod deadlines;
mod framing;
mod judged;
mod secrets;
mod smuggled;
mod upgrades;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::exchange::{Event, Watch};
use super::limits::{ANSWER, HEAD, HEAD_BYTES, HEADERS, IDLE, UPGRADED};
use super::proxy::{Connecting, Connector, Judge, Proxy, Scheme, Seen};
use crate::policy::RuleId;
use crate::refusal::Refusal;
use crate::secret::Secrets;
use crate::stream::{Stream, Unreachable};

/// Allows two hosts, and no DELETE. Keeps what it saw.
#[derive(Default)]
pub(super) struct Both {
    pub(super) seen: Mutex<Vec<String>>,
    pub(super) events: Mutex<Vec<Event>>,
}

impl Judge for Both {
    fn judge(&self, request: &Seen<'_>) -> Result<Option<RuleId>, Refusal> {
        let Seen {
            host,
            port,
            method,
            path,
        } = request;
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        self.seen
            .lock()
            .unwrap()
            .push(format!("{method} {host}{port}{path}"));
        let allowed = ["example.com", "other.test", "192.0.2.1", "2001:db8::1"].contains(host);
        if allowed && *method != "DELETE" {
            return Ok(None);
        }
        Err(Refusal::new(
            "not_allowed",
            format!("policy \"test\" denies {method} {host}"),
        ))
    }
}

impl Watch for Both {
    fn over(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

/// A guest, a proxy, and servers that the test plays.
pub(super) struct Rig {
    pub(super) guest: DuplexStream,
    pub(super) servers: mpsc::UnboundedReceiver<DuplexStream>,
    pub(super) both: Arc<Both>,
    pub(super) proxy: JoinHandle<io::Result<()>>,
}

impl Rig {
    pub(super) fn plain() -> Self {
        Self::of(Scheme::Plain, Secrets::default())
    }

    pub(super) fn of(scheme: Scheme, secrets: Secrets) -> Self {
        let (asks, servers) = mpsc::unbounded_channel();
        let connect: Connector = Box::new(move || {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let _ = asks.send(far);
            Box::pin(async move { Ok(Box::new(near) as Box<dyn Stream>) })
        });
        Self::with(scheme, secrets, connect, servers)
    }

    /// With servers that cannot be reached.
    pub(super) fn failing(failure: fn() -> Connecting) -> Self {
        let (_, servers) = mpsc::unbounded_channel();
        Self::with(
            Scheme::Plain,
            Secrets::default(),
            Box::new(failure),
            servers,
        )
    }

    fn with(
        scheme: Scheme,
        secrets: Secrets,
        connect: Connector,
        servers: mpsc::UnboundedReceiver<DuplexStream>,
    ) -> Self {
        let (guest, near) = tokio::io::duplex(64 * 1024);
        let both = Arc::new(Both::default());
        let proxy = Proxy {
            scheme,
            judge: Arc::clone(&both) as Arc<dyn Judge>,
            watch: Arc::clone(&both) as Arc<dyn Watch>,
            secrets: Arc::new(secrets),
            answer: ANSWER,
            connect,
        };
        Self {
            guest,
            servers,
            both,
            proxy: tokio::spawn(proxy.serve(near)),
        }
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.guest.write_all(text.as_bytes()).await.unwrap();
    }

    pub(super) async fn server(&mut self) -> DuplexStream {
        self.servers.recv().await.unwrap()
    }

    pub(super) fn nobody_was_asked(&mut self) {
        assert!(self.servers.try_recv().is_err());
    }

    /// The next event. It comes when the request is over, which may be after the answer's last byte.
    pub(super) async fn event(&self) -> Event {
        loop {
            if let Some(event) = self.both.events.lock().unwrap().pop() {
                return event;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Reads a message's head.
pub(super) async fn head(stream: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Reads these bytes, and no others.
pub(super) async fn expect(stream: &mut DuplexStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

/// Reads to the end, whatever kind of end it is.
pub(super) async fn rest(stream: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

/// Reads a last answer, and closes after its head.
pub(super) async fn last(stream: &mut DuplexStream) -> String {
    let head = head(stream).await;
    stream.shutdown().await.unwrap();
    head + &rest(stream).await
}

pub(super) async fn say(stream: &mut DuplexStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn requests_share_a_connection_and_are_told_of() {
    let mut rig = Rig::plain();
    rig.send("GET /a?b HTTP/1.1\r\nHost: EXAMPLE.com:80\r\nX-Own: 1\r\n\r\n")
        .await;
    let mut server = rig.server().await;
    let asked = head(&mut server).await;
    assert!(asked.starts_with("GET /a?b HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("host: example.com:80\r\n") && asked.contains("x-own: 1\r\n"));
    say(
        &mut server,
        "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-Far: 1\r\n\r\nhi",
    )
    .await;
    let got = head(&mut rig.guest).await;
    assert!(
        got.starts_with("HTTP/1.1 200 OK\r\n") && got.contains("x-far: 1\r\n"),
        "{got}"
    );
    expect(&mut rig.guest, "hi").await;
    rig.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    assert!(head(&mut server).await.contains("content-length: 3\r\n"));
    expect(&mut server, "abc").await;
    say(&mut server, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(head(&mut rig.guest).await.starts_with("HTTP/1.1 204"));
    rig.nobody_was_asked();
    drop(server);
    rig.guest.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.guest).await, "");
    drop(rig.guest);
    rig.proxy.await.unwrap().unwrap();
    let event = |method: &str, status, up, down| Event {
        method: method.to_owned(),
        host: "example.com".to_owned(),
        status: Some(status),
        refused: None,
        rule: None,
        lost: false,
        up,
        down,
    };
    let events = rig.both.events.lock().unwrap();
    assert_eq!(*events, [event("GET", 200, 0, 2), event("POST", 204, 3, 0)]);
    let seen = rig.both.seen.lock().unwrap();
    assert_eq!(*seen, ["GET example.com:80/a?b", "POST example.com/"]);
}

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

use super::exchange::{RequestObserver, RequestRecord};
use super::limits::{
    ANSWER_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT, MAX_HEAD_BYTES, MAX_HEADERS, UPGRADED_TIMEOUT,
};
use super::proxy::{ConnectFuture, Connector, Proxy, RequestFilter, RequestHead, Scheme};
use crate::policy::RuleId;
use crate::refusal::Refusal;
use crate::secret::Secrets;
use crate::stream::{Stream, UpstreamError};

/// Allows four hosts, no DELETE, and no upgrade of one path. Records the requests that it checks and those that finish.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) checked: Mutex<Vec<String>>,
    pub(super) events: Mutex<Vec<RequestRecord>>,
}

impl RequestFilter for Recorder {
    fn check(&self, request: &RequestHead<'_>) -> Result<Option<RuleId>, Refusal> {
        let RequestHead {
            host,
            port,
            method,
            path,
            upgrades,
        } = request;

        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        self.checked
            .lock()
            .unwrap()
            .push(format!("{method} {host}{port}{path}"));

        let allowed = ["example.com", "other.test", "192.0.2.1", "2001:db8::1"].contains(host);
        if allowed && *method != "DELETE" && !(*upgrades && *path == "/no-upgrades") {
            return Ok(None);
        }

        Err(Refusal::new(
            "not_allowed",
            format!("policy \"test\" denies {method} {host}"),
        ))
    }
}

impl RequestObserver for Recorder {
    fn finished(&self, event: RequestRecord) {
        self.events.lock().unwrap().push(event);
    }
}

/// A guest, a proxy, and the servers' ends of its connections.
pub(super) struct Rig {
    pub(super) guest: DuplexStream,
    pub(super) servers: mpsc::UnboundedReceiver<DuplexStream>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) proxy: JoinHandle<io::Result<()>>,
}

impl Rig {
    pub(super) fn plain() -> Self {
        Self::new(Scheme::Plain, Secrets::default())
    }

    pub(super) fn new(scheme: Scheme, secrets: Secrets) -> Self {
        let (asks, servers) = mpsc::unbounded_channel();
        let connect: Connector = Box::new(move || {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let _ = asks.send(far);
            Box::pin(async move { Ok(Box::new(near) as Box<dyn Stream>) })
        });

        Self::with(scheme, secrets, connect, servers)
    }

    /// A rig whose servers cannot be reached.
    pub(super) fn failing(failure: fn() -> ConnectFuture) -> Self {
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
        let recorder = Arc::new(Recorder::default());
        let proxy = Proxy {
            scheme,
            filter: Arc::clone(&recorder) as Arc<dyn RequestFilter>,
            observer: Arc::clone(&recorder) as Arc<dyn RequestObserver>,
            secrets: Arc::new(secrets),
            answer_timeout: ANSWER_TIMEOUT,
            connect,
        };

        Self {
            guest,
            servers,
            recorder,
            proxy: tokio::spawn(proxy.serve(near)),
        }
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.guest.write_all(text.as_bytes()).await.unwrap();
    }

    pub(super) async fn server(&mut self) -> DuplexStream {
        self.servers.recv().await.unwrap()
    }

    pub(super) fn assert_no_server_contacted(&mut self) {
        assert!(self.servers.try_recv().is_err());
    }

    /// The next event. It comes when the request is over, which may be after the answer's last byte.
    pub(super) async fn event(&self) -> RequestRecord {
        loop {
            if let Some(event) = self.recorder.events.lock().unwrap().pop() {
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

/// Reads exactly these bytes.
pub(super) async fn expect(stream: &mut DuplexStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

/// Reads until the stream ends or fails.
pub(super) async fn rest(stream: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

/// Reads the last answer, and closes the guest's side after its head.
pub(super) async fn last(stream: &mut DuplexStream) -> String {
    let head = head(stream).await;
    stream.shutdown().await.unwrap();
    head + &rest(stream).await
}

pub(super) async fn say(stream: &mut DuplexStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn requests_share_a_connection_and_are_recorded() {
    let mut rig = Rig::plain();
    rig.send("GET /a?b HTTP/1.1\r\nHost: EXAMPLE.com:80\r\nX-Own: 1\r\n\r\n")
        .await;
    let mut server = rig.server().await;
    let forwarded = head(&mut server).await;
    assert!(
        forwarded.starts_with("GET /a?b HTTP/1.1\r\n"),
        "{forwarded}"
    );
    assert!(forwarded.contains("host: example.com:80\r\n") && forwarded.contains("x-own: 1\r\n"));
    say(
        &mut server,
        "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-Far: 1\r\n\r\nhi",
    )
    .await;

    let received = head(&mut rig.guest).await;
    assert!(
        received.starts_with("HTTP/1.1 200 OK\r\n") && received.contains("x-far: 1\r\n"),
        "{received}"
    );
    expect(&mut rig.guest, "hi").await;
    rig.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    assert!(head(&mut server).await.contains("content-length: 3\r\n"));
    expect(&mut server, "abc").await;
    say(&mut server, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(head(&mut rig.guest).await.starts_with("HTTP/1.1 204"));
    rig.assert_no_server_contacted();
    drop(server);
    rig.guest.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.guest).await, "");
    drop(rig.guest);
    rig.proxy.await.unwrap().unwrap();
    let event = |method: &str, status, bytes_up, bytes_down| RequestRecord {
        method: method.to_owned(),
        host: "example.com".to_owned(),
        status: Some(status),
        refused: None,
        rule: None,
        unanswered: false,
        bytes_up,
        bytes_down,
    };

    let events = rig.recorder.events.lock().unwrap();
    assert_eq!(*events, [event("GET", 200, 0, 2), event("POST", 204, 3, 0)]);
    let checked = rig.recorder.checked.lock().unwrap();
    assert_eq!(*checked, ["GET example.com:80/a?b", "POST example.com/"]);
}

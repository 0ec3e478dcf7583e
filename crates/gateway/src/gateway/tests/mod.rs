mod forged_frames;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::config::{Connections, GatewayConfig};
use super::handle::Gateway;
use crate::events::NetworkAction;
use crate::metering::ConnectionBudget;
use crate::policy::{Document, Policy, RuleSpec};
use crate::secret::Vault;
use crate::testing::{Guest, LINK};

/// Parses a policy from words of the command line.
fn policy(words: &[String]) -> Policy {
    let rules = words.iter().map(|word| RuleSpec::parse_word(word).unwrap());
    let document = Document {
        allow: rules.collect(),
        ..Document::default()
    };
    document.policy("test").unwrap()
}

fn start(policy: Policy, name_servers: Vec<SocketAddr>) -> (Guest, Gateway) {
    start_within(policy, name_servers, ConnectionBudget::default())
}

/// Starts a gateway whose guest shares its connections with others.
fn start_within(
    policy: Policy,
    name_servers: Vec<SocketAddr>,
    connections: ConnectionBudget,
) -> (Guest, Gateway) {
    let (guest, wire) = Guest::new();
    let setup = GatewayConfig {
        link: LINK,
        policy: Arc::new(policy),
        vault: Vault::default(),
        name_servers,
        connections,
        stale: Connections::default(),
    };

    (guest, Gateway::start(wire, setup).unwrap())
}

/// Returns a guest with a connection to a server, and both ends of the connection.
async fn connected() -> (Guest, Gateway, SocketHandle, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (mut guest, gateway) = start(policy(&[at.to_string()]), vec![]);
    let (opened, accepted) = tokio::join!(guest.connect(at), listener.accept());
    (guest, gateway, opened.unwrap(), accepted.unwrap().0)
}

/// A server that sends back its input in uppercase.
async fn start_uppercase_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut received = Vec::new();
                client.read_to_end(&mut received).await.unwrap();
                received.make_ascii_uppercase();
                client.write_all(&received).await.unwrap();
            });
        }
    });

    at
}

/// Starts a name server for these names.
async fn start_name_server(known: &'static [(&str, &str)]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let query = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            answer.add_query(query.clone());
            let queried = query.name().to_ascii();
            let matching = known
                .iter()
                .filter(|(name, _)| format!("{name}.") == queried);
            let addresses = matching.map(|(_, address)| address.parse::<IpAddr>().unwrap());

            for address in
                addresses.filter(|a| a.is_ipv4() == (query.query_type() == RecordType::A))
            {
                answer.add_answer(Record::from_rdata(
                    query.name().clone(),
                    60,
                    RData::from(address),
                ));
            }

            if !known.iter().any(|(name, _)| format!("{name}.") == queried) {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }

            socket
                .send_to(&answer.to_vec().unwrap(), from)
                .await
                .unwrap();
        }
    });

    at
}

/// Looks up a name from the guest.
async fn look_up(guest: &mut Guest, name: &str, kind: RecordType) -> (ResponseCode, Vec<IpAddr>) {
    let mut question = Message::query();
    question.metadata.id = 4711;
    question.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).unwrap(),
        kind,
    ));

    let question = question.to_vec().unwrap();
    let answer = guest.query_dns(LINK.gateway.v4.into(), &question).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 4711);
    let addresses = answer
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr());

    (answer.metadata.response_code, addresses.collect())
}

/// Returns the codes of all denials so far.
fn denials(gateway: &Gateway) -> Vec<&'static str> {
    let summary = gateway.summary();
    summary
        .denials
        .iter()
        .map(|denial| denial.event.code)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_to_an_allowed_address_arrive_complete() {
    let server = start_uppercase_server().await;
    let (mut guest, gateway) = start(policy(&[server.to_string()]), vec![]);
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| b'a' + (n % 26) as u8).collect();

    for sent in [&b"hello"[..], &long] {
        let socket = guest.connect(server).await.unwrap();
        let received = guest.exchange(socket, sent).await.unwrap();
        assert!(
            received == sent.to_ascii_uppercase(),
            "{} of {}",
            received.len(),
            sent.len()
        );
    }

    let summary = gateway.summary();
    let bytes = 5 + long.len() as u64;
    assert_eq!((summary.bytes_up, summary.bytes_down), (bytes, bytes));
    assert_eq!((summary.connections, summary.denials), (2, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_no_rule_allows_is_refused() {
    let server = start_uppercase_server().await;
    let other = start_uppercase_server().await;
    let (mut guest, gateway) = start(policy(&[other.to_string()]), vec![]);
    assert_eq!(guest.connect(server).await, None);
    assert_eq!(denials(&gateway), ["port_not_allowed"]);
    let denial = &gateway.summary().denials[0].event;
    assert_eq!(
        (denial.address, denial.port),
        (Some(server.ip()), Some(server.port()))
    );

    assert!(denial.message.contains("--allow"), "{}", denial.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusing_host_is_refused_for_the_guest() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let (mut guest, gateway) = start(policy(&[at.to_string()]), vec![]);
    let mut events = gateway.events();
    assert_eq!(guest.connect(at).await, None);
    let event = events.recv().await.unwrap();
    assert_eq!((event.code, event.allowed), ("unreachable", true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_resolved_as_the_policy_says() {
    let names =
        start_name_server(&[("good.test", "203.0.113.9"), ("inner.test", "10.0.0.1")]).await;
    let words = ["good.test", "absent.test", "inner.test"].map(String::from);
    let (mut guest, gateway) = start(policy(&words), vec![names]);
    let refuser = IpAddr::from(LINK.gateway.v4);
    let ok = ResponseCode::NoError;
    let cases = [
        (
            "good.test",
            RecordType::A,
            ok,
            vec![IpAddr::from([203, 0, 113, 9])],
        ),
        ("GOOD.test", RecordType::AAAA, ok, vec![]),
        ("good.test", RecordType::HTTPS, ok, vec![]),
        ("absent.test", RecordType::A, ResponseCode::NXDomain, vec![]),
        ("secret-bytes.evil.test", RecordType::A, ok, vec![refuser]),
        ("secret-bytes.evil.test", RecordType::TXT, ok, vec![]),
        ("inner.test", RecordType::A, ok, vec![refuser]),
    ];

    for (name, kind, code, addresses) in cases {
        assert_eq!(
            look_up(&mut guest, name, kind).await,
            (code, addresses),
            "{name} {kind}"
        );
    }

    assert_eq!(denials(&gateway), ["no_rule", "special_address"]);
    let nothing = [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let answer = guest.query_dns(LINK.gateway.v4.into(), &nothing).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_guest_reads_the_reason() {
    let names = start_name_server(&[("inner.test", "10.0.0.1")]).await;
    let words = ["inner.test"].map(String::from);
    let (mut guest, gateway) = start(policy(&words), vec![names]);
    let (_, refuser) = look_up(&mut guest, "inner.test", RecordType::A).await;

    for (host, to, code, why) in [
        ("inner.test", refuser[0], "special_address", "10.0.0.1"),
        ("evil.test", refuser[0], "no_rule", "--allow evil.test"),
        (
            "evil.test",
            [203, 0, 113, 1].into(),
            "not_resolved",
            "203.0.113.1",
        ),
    ] {
        let socket = guest.connect(SocketAddr::new(to, 80)).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let page = guest.exchange(socket, request.as_bytes()).await.unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(page.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{page}");
        assert!(
            page.contains(&format!("X-Fumehood-Denied: {code}")),
            "{page}"
        );

        assert!(page.contains(why) && page.contains("`test`"), "{page}");
    }

    assert_eq!(denials(&gateway).len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_packets_are_rejected_and_reported() {
    let (mut guest, gateway) = start(policy(&[]), vec![]);
    let mut events = gateway.events();
    guest.send_datagram(SocketAddr::new([203, 0, 113, 1].into(), 443));
    guest.send_datagram(SocketAddr::new(LINK.gateway.v4.into(), 54));
    guest.send_datagram(SocketAddr::new(
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        53,
    ));

    for (code, port) in [
        ("datagram", Some(443)),
        ("datagram", Some(54)),
        ("datagram", Some(53)),
    ] {
        let next = guest.until("an event", |_| events.try_recv().ok()).await;
        assert_eq!((next.code, next.port, next.allowed), (code, port, false));
    }

    guest.send_raw(b"no frame");
    assert_eq!(
        guest
            .until("an event", |_| events.try_recv().ok())
            .await
            .code,
        "malformed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_connections_are_bounded() {
    let server = start_uppercase_server().await;
    let mut policy = policy(&[server.to_string()]);
    policy.limits.connections = 3;
    let (mut guest, gateway) = start(policy, vec![]);
    let mut open = Vec::new();

    for _ in 0..3 {
        open.push(guest.connect(server).await.unwrap());
    }

    assert_eq!(guest.connect(server).await, None);
    let denial = guest.until("a denial", |_| denials(&gateway).pop());
    assert_eq!(denial.await, "connections");
    guest.exchange(open[0], b"x").await.unwrap();
    // A closed connection frees its slot once both ends are gone.
    let start = std::time::Instant::now();

    while guest.connect(server).await.is_none() {
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_of_the_guest_is_reached_from_the_host() {
    let (mut guest, mut gateway) = start(policy(&[]), vec![]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut events = gateway.events();
    gateway.expose(listener, 3000);
    let server = guest.listen(3000);
    let client = tokio::spawn(async move {
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        received
    });

    guest
        .until("a client", |guest| {
            guest.socket(server).may_recv().then_some(())
        })
        .await;

    let received = guest.exchange(server, b"pong").await.unwrap();
    assert_eq!(
        (received, client.await.unwrap().as_str()),
        (b"ping".to_vec(), "pong")
    );

    let denial = events.recv().await.unwrap();
    assert_eq!(
        (denial.what, denial.code),
        (NetworkAction::Inbound, "exposed")
    );
    assert_eq!((denial.bytes_up, denial.bytes_down), (4, 4));
    // No program listens any more.
    let client = tokio::spawn(async move {
        let mut client = TcpStream::connect(at).await.unwrap();
        client.read(&mut [0; 1]).await
    });

    guest
        .until("the end of a client", |_| {
            client.is_finished().then_some(())
        })
        .await;

    assert!(matches!(client.await.unwrap(), Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_saved_state_are_reset_at_once() {
    let server = start_uppercase_server().await;
    let rules = policy(&[server.to_string()]);
    let (mut guest, gateway) = start(rules.clone(), vec![]);
    let socket = guest.connect(server).await.unwrap();
    let connections = gateway.connections();
    assert_eq!(connections.0.len(), 1);
    // The same guest at another wire, as after a restore.
    drop(gateway);
    let wire = guest.replug();
    let setup = GatewayConfig {
        link: LINK,
        policy: Arc::new(rules),
        vault: Vault::default(),
        name_servers: vec![],
        connections: ConnectionBudget::default(),
        stale: connections,
    };

    let _gateway = Gateway::start(wire, setup).unwrap();
    let ended = guest.until("the end of the old connection", |guest| {
        (guest.socket(socket).state() == State::Closed).then_some(())
    });
    ended.await;
    let socket = guest.connect(server).await.unwrap();
    assert_eq!(guest.exchange(socket, b"new").await.unwrap(), b"NEW");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_guest_resets_is_reset_upstream() {
    let (mut guest, _gateway, socket, mut server) = connected().await;
    guest.socket(socket).send_slice(b"half").unwrap();
    let mut half = [0; 4];
    let reading = tokio::spawn(async move {
        server.read_exact(&mut half).await.unwrap();
        server
    });

    guest
        .until("what was said", |_| reading.is_finished().then_some(()))
        .await;

    let mut server = reading.await.unwrap();
    guest.socket(socket).abort();
    let broken = tokio::spawn(async move { server.read(&mut [0; 1]).await });
    guest
        .until("the end of a connection", |_| {
            broken.is_finished().then_some(())
        })
        .await;

    let end = broken.await.unwrap().map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_gateway_closes_its_connections() {
    let (_guest, gateway, _, mut server) = connected().await;
    drop(gateway);
    let end = tokio::time::timeout(Duration::from_secs(20), server.read(&mut [0; 1])).await;
    assert!(matches!(end.unwrap(), Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_guest_closes_its_connections_and_ports() {
    let (guest, mut gateway, _, mut server) = connected().await;
    let exposed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = exposed.local_addr().unwrap();
    gateway.expose(exposed, 3000);
    drop(guest);
    let end = tokio::time::timeout(Duration::from_secs(20), server.read(&mut [0; 1])).await;
    assert!(matches!(end.unwrap(), Ok(0) | Err(_)));
    let start = std::time::Instant::now();

    while TcpListener::bind(port).await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::task::yield_now().await;
    }

    drop(gateway);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_share_a_budget_of_connections() {
    let server = start_uppercase_server().await;
    let rules = policy(&[server.to_string()]);
    let budget = ConnectionBudget::default().share(2, "of this key");
    let (mut first, gateway) = start_within(rules.clone(), vec![], budget.clone());
    let (mut second, other) = start_within(rules, vec![], budget.clone());

    let one = first.connect(server).await.unwrap();
    second.connect(server).await.unwrap();
    let mut events = gateway.events();
    assert!(first.connect(server).await.is_none());

    let refused = loop {
        let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
        let event = event.unwrap().unwrap();
        if event.code == "connection_budget" {
            break event;
        }
    };
    assert!(refused.message.contains("2 connections of this key"));

    // The end of another guest frees its connections.
    drop(other);
    let start = std::time::Instant::now();
    while budget.open() > 1 {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
    first.connect(server).await.unwrap();
    assert_eq!(first.exchange(one, b"still").await.unwrap(), b"STILL");
}

//! Connections that a policy denies: the guest gets an immediate error, readable where possible, and the host an event.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::guest::{NetworkEvents, network, python};
use fumehood_end_to_end::netns::in_private_netns;
use fumehood_end_to_end::servers::{
    Canaries, CertificateAuthority, DnsAnswer, NameServer, OTHER, WEB4, WEB6, WebServer, at, echo,
};
use fumehood_end_to_end::{engine, run_ok};
use fumehood_engine::{Language, NetworkAction, NetworkEvent, Sandbox};
use hickory_proto::rr::RecordType;

const RULES: &str = r#"
[[allow]]
id = "web"
host = ["web.test", "six.test", "turning.test", "mixed.test", "inner.test", "metadata.test"]

[[allow]]
id = "read"
host = "read.test"
methods = ["GET", "HEAD"]

[[allow]]
id = "seen"
host = "seen.test"
methods = ["GET"]
terminate = true
"#;

async fn names() -> NameServer {
    let one = |address: &str| DnsAnswer::Addresses(vec![address.parse().unwrap()], 0);
    NameServer::serve()
        .await
        .know("web.test", &format!("{WEB4} {WEB6}"))
        .know("six.test", WEB6)
        .know("read.test", WEB4)
        .know("seen.test", WEB4)
        .know("other.test", OTHER)
        .know("mixed.test", &format!("{WEB4} 10.66.0.1"))
        .know("inner.test", "10.66.0.1 fd66:756d:6568::1")
        .know("metadata.test", "169.254.169.254 fd00:ec2::254")
        .say("turning.test", RecordType::A, one(WEB4))
        .say("turning.test", RecordType::A, one("10.66.0.1"))
}

async fn web() -> WebServer {
    let (authority, web) = (CertificateAuthority::trusted(), WebServer::default());
    for address in [WEB4, WEB6, OTHER] {
        web.serve(at(address, 80)).await;
        let acceptor = authority.acceptor(&["web.test", "read.test", "seen.test", "other.test"]);
        web.serve_tls(at(address, 443), acceptor).await;
    }

    web
}

#[test]
fn denials_are_immediate_and_reported() {
    in_private_netns("denials_are_immediate_and_reported", || async {
        let (names, web, canaries) = (names().await, web().await, Canaries::listen().await);
        let sandbox = engine().sandbox().network(network(RULES)).await.unwrap();
        let events = NetworkEvents::of(&sandbox);
        names_and_addresses(&sandbox, &events).await;
        first_bytes(&sandbox, &events).await;
        http_requests(&sandbox, &events, &web).await;
        other_programs(&sandbox).await;
        canaries.assert_untouched();
        let queries = names.queries();
        let denied = ["denied.test", "other.test", "sub.web.test"];
        assert!(
            !queries.iter().any(|name| denied.contains(&name.as_str())),
            "{queries:?}"
        );

        // The summary has the same denials as the events.
        let summary = sandbox.network().unwrap().summary;
        assert_eq!(summary.missed_events, 0);

        for event in events.all().iter().filter(|event| !event.allowed) {
            let has = |denial: &&fumehood_engine::Denial| {
                let of = |e: &NetworkEvent| (e.what, e.code, e.name.clone(), e.address, e.port);
                of(&denial.event) == of(event)
            };
            assert!(
                summary.denials.iter().any(|denial| has(&denial)),
                "{event:?}"
            );
        }
    });
}

/// Checks that each line of a program's output starts as expected and was immediate.
fn assert_lines(text: &str, expected: &[&str]) {
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{text}");

    for (line, begin) in lines.iter().zip(expected) {
        assert!(
            line.starts_with(begin) && !line.ends_with("late"),
            "{begin}\n{text}"
        );
    }
}

/// A program that tries names and addresses which the policy does not allow, one in a line of its report.
const NAMES_AND_ADDRESSES: &str = r"
report('name', lambda: get('http://denied.test/'))
report('name, tls', lambda: get('https://denied.test/'))
report('name, other port', lambda: connect('denied.test', 22, b'SSH-2.0-x\r\n'))
report('name, other port, silent', lambda: connect('denied.test', 25))
report('below a name', lambda: get('http://sub.web.test/'))
report('port', lambda: connect('web.test', 22, b'SSH-2.0-x\r\n'))
report('port, http', lambda: get('http://web.test:8080/'))
report('private', lambda: get('http://inner.test/'))
report('private, tls', lambda: get('https://inner.test/'))
report('metadata', lambda: get('http://metadata.test/latest/meta-data/'))
report('mixed', lambda: [a[4][0] for a in socket.getaddrinfo('mixed.test', 80, socket.AF_INET, socket.SOCK_STREAM)])
report('first', lambda: get('http://turning.test/'))
report('then', lambda: get('http://turning.test/'))
report('address', lambda: get('http://203.0.113.11/'))
report('address, v6', lambda: get('http://[2001:db8:bad::7]/'))
report('address, tls', lambda: get('https://198.51.100.7/'))
report('address, other port', lambda: connect('198.51.100.7', 22))
report('metadata address', lambda: get('http://169.254.169.254/latest/meta-data/'))
report('private address', lambda: get('http://10.66.0.1/'))
report('no host', lambda: socket.getaddrinfo('under_score..test', 80))
";

async fn names_and_addresses(sandbox: &Sandbox, events: &NetworkEvents) {
    let expected = [
        "name: HTTP 403 The policy `test` denies denied.test:80: no rule allows it. To allow it: --allow denied.test",
        "name, tls: SSLError TLSV1_ALERT_ACCESS_DENIED",
        "name, other port: ECONNREFUSED",
        "name, other port, silent: ECONNREFUSED",
        "below a name: HTTP 403 The policy `test` denies sub.web.test:80",
        "port: ECONNREFUSED",
        "port, http: HTTP 403 The policy `test` denies web.test:8080: rule `web` allows this host, but not this port",
        "private: HTTP 403 The policy `test` denies inner.test:80: ",
        "private, tls: SSLError TLSV1_ALERT_ACCESS_DENIED",
        "metadata: HTTP 403 The policy `test` denies metadata.test:80: ",
        "mixed: ['203.0.113.10']",
        "first: this is turning.test",
        "then: HTTP 403 The policy `test` denies turning.test:80: 10.66.0.1 is a special address (private)",
        "address: HTTP 403 The policy `test` denies 203.0.113.11:80: ",
        "address, v6: HTTP 403 The policy `test` denies [2001:db8:bad::7]:80: ",
        "address, tls: SSLError TLSV1_ALERT_ACCESS_DENIED",
        "address, other port: ECONNREFUSED",
        "metadata address: HTTP 403 The policy `test` denies 169.254.169.254:80: 169.254.169.254 is a special address (cloud metadata)",
        "private address: HTTP 403 The policy `test` denies 10.66.0.1:80: 10.66.0.1 is a special address (private)",
        "no host: ",
    ];
    assert_lines(&python(sandbox, NAMES_AND_ADDRESSES).await, &expected);
    assert_denials_of_names_and_addresses(events).await;
}

async fn assert_denials_of_names_and_addresses(events: &NetworkEvents) {
    let named = |name: &'static str| {
        move |e: &NetworkEvent| e.name.as_ref().is_some_and(|n| n.as_ref() == name)
    };
    let lookup = events.denial("no_rule", named("denied.test")).await;
    assert_eq!((lookup.what, lookup.port), (NetworkAction::Lookup, None));
    for port in [80, 443] {
        let here = |e: &NetworkEvent| named("denied.test")(e) && e.port == Some(port);
        let event = events.denial("no_rule", here).await;
        assert!(
            event.message.contains("--allow denied.test"),
            "{}",
            event.message
        );
    }
    events
        .denial("port_not_allowed", |e| {
            named("web.test")(e) && e.port == Some(22)
        })
        .await;
    for name in ["inner.test", "metadata.test", "mixed.test", "turning.test"] {
        events.denial("special_address", named(name)).await;
    }
    for (code, address, port) in [
        ("not_resolved", "203.0.113.11", 80),
        ("not_resolved", "2001:db8:bad::7", 80),
        ("not_resolved", "198.51.100.7", 443),
        ("not_resolved", "198.51.100.7", 22),
        ("special_address", "169.254.169.254", 80),
        ("special_address", "10.66.0.1", 80),
    ] {
        let to = at(address, port);
        let here = |e: &NetworkEvent| e.address == Some(to.ip()) && e.port == Some(port);
        events.denial(code, here).await;
    }
}

/// The content of the first bytes counts, and not only their destination.
async fn first_bytes(sandbox: &Sandbox, events: &NetworkEvents) {
    let code = r"
def hello(name):
    def act():
        with socket.create_connection(('web.test', 443)) as s:
            with blind().wrap_socket(s, server_hostname=name): return 'open'
    return act
def hidden():
    # A hello with the extension of an encrypted one (0xfe0d), as a client that only pretends sends it.
    name = b'web.test'
    names = struct.pack('>HBH', len(name) + 3, 0, len(name)) + name
    extensions = struct.pack('>HH', 0, len(names)) + names + struct.pack('>HH', 0xfe0d, 8) + bytes(8)
    body = b'\x03\x03' + bytes(32) + b'\0' + b'\0\x02\x13\x01' + b'\x01\0' + struct.pack('>H', len(extensions)) + extensions
    body = b'\x01' + struct.pack('>I', len(body))[1:] + body
    return connect('web.test', 443, b'\x16\x03\x01' + struct.pack('>H', len(body)) + body)
report('right', hello('web.test'))
report('other name', hello('other.test'))
report('no name', hello(None))
report('hidden name', hidden)
report('no protocol', lambda: connect('web.test', 443, b'\0\1\2 anything'))
report('http 2', lambda: connect('web.test', 80, b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'))
";
    let expected = [
        "right: open",
        "other name: SSLError TLSV1_ALERT_ACCESS_DENIED",
        "no name: SSLError TLSV1_UNRECOGNIZED_NAME",
        r"hidden name: b'\x15\x03\x03\x00\x02\x021'",
        "no protocol: ECONNRESET",
        r"http 2: b'HTTP/1.1 403 Forbidden\r\n",
    ];
    let text = python(sandbox, code).await;
    assert_lines(&text, &expected);
    for code in [
        "other_server_name",
        "no_server_name",
        "encrypted_server_name",
        "not_tls_nor_http",
    ] {
        events
            .denial(code, |e| {
                e.name.as_ref().is_some_and(|n| n.as_ref() == "web.test")
            })
            .await;
    }
}

async fn http_requests(sandbox: &Sandbox, events: &NetworkEvents, web: &WebServer) {
    let before = web.seen().len();
    let code = r"
def keep_alive():
    c = http.client.HTTPConnection('web.test')
    c.request('GET', '/')
    first = c.getresponse().read().decode().strip()
    c.request('GET', '/', headers={'Host': 'other.test'})
    second = c.getresponse()
    return first, second.status, second.headers['X-Fumehood-Denied']
report('host', lambda: get('http://web.test/', headers={'Host': 'other.test'}))
report('keep-alive', keep_alive)
report('method', lambda: get('http://read.test/', method='POST', data=b'x'))
report('method, hidden', lambda: get('https://read.test/', blind()))
report('method, allowed', lambda: get('http://read.test/'))
report('method, seen', lambda: get('https://seen.test/'))
report('method, seen and denied', lambda: get('https://seen.test/', method='DELETE'))
report('host, seen', lambda: get('https://seen.test/', headers={'Host': 'read.test'}))
";
    let expected = [
        "host: HTTP 403 The policy `test` denies web.test:80: the request is for other.test",
        "keep-alive: ('this is web.test', 403, 'host_changed')",
        "method: HTTP 403 ",
        "method, hidden: SSLError TLSV1_ALERT_ACCESS_DENIED",
        "method, allowed: this is read.test",
        "method, seen: this is seen.test",
        "method, seen and denied: HTTP 403 ",
        "host, seen: HTTP 403 ",
    ];
    assert_lines(&python(sandbox, code).await, &expected);
    for code in [
        "other_host",
        "host_changed",
        "method_not_allowed",
        "method_hidden",
    ] {
        events.denial(code, |_| true).await;
    }

    // Nothing that was denied arrived.
    let seen = web.seen().split_off(before);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(
        seen.iter().all(|head| head.starts_with(
            "GET /
"
        )),
        "{seen:?}"
    );
}

async fn other_programs(sandbox: &Sandbox) {
    let code = r#"
curl -s http://denied.test/ | head -n 1
curl -sS https://denied.test/ 2>&1 | tail -n 1
(exec 3<>/dev/tcp/198.51.100.7/22) 2>&1 | grep -o 'Connection refused' | head -n 1
"#;
    let text = run_ok(sandbox, Language::Shell, code).await;
    let expected = [
        "The policy `test` denies denied.test:80: no rule allows it.",
        "curl: (35) ",
        "Connection refused",
    ];
    assert_lines(&text, &expected);
    let code = r"
const page = await fetch('http://denied.test/');
console.log(page.status, page.headers.get('x-fumehood-denied'));
for (const url of ['https://denied.test/', 'http://198.51.100.7:22/']) {
  await fetch(url).then(() => console.log('open'), (error) => console.log(error.code ?? error.message));
}
";
    let text = run_ok(sandbox, Language::Javascript, code).await;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 3 && lines[0] == "403 no_rule", "{text}");
    assert!(!text.contains("open"), "{text}");
}

const TIGHT: &str = r#"
[[allow]]
id = "web"
host = "web.test"
[[allow]]
id = "echo"
host = "echo.test"
ports = [7]
raw = true
[limits]
connections = 6
connections_per_s = 12
lookups_per_s = 10
bytes_down = 3_000_000
"#;

/// Exceeds each of the limits.
const GREEDY: &str = r"
to = (socket.gethostbyname('echo.test'), 7)
def at_once():
    kept, refused = [], 0
    for _ in range(9):
        try: kept.append(socket.create_connection(to))
        except OSError: refused += 1
    said = []
    for s in kept:
        s.sendall(b'x')
        said.append(s.recv(1))
        s.close()
    return len(said), refused
def often(act, times):
    failed = 0
    for _ in range(times):
        try: act()
        except OSError: failed += 1
    return 0 < failed < times
def dial():
    with socket.create_connection(to): pass
report('at once', at_once)
time.sleep(1)
report('dials', lambda: often(dial, 40))
report('lookups', lambda: often(lambda: socket.gethostbyname('no-such.test'), 60))
time.sleep(2)
report('down', lambda: len(get('http://web.test/bytes/20000000')))
report('after', lambda: get('http://web.test/'))
";

/// Sends more than allowed, and reads all that comes back. The reset may come while it connects, and whichever of its
/// threads gets it first, the other one finds a broken pipe.
const LOUD: &str = r"
def up():
    with socket.create_connection(('echo.test', 7)) as s:
        def drain():
            try:
                while s.recv(65536): pass
            except OSError: pass
        threading.Thread(target=drain, daemon=True).start()
        piece, sent = bytes(65536), 0
        while sent < 20_000_000: sent += s.send(piece)
        return 'all'
def cut():
    try: return up()
    except (ConnectionResetError, BrokenPipeError): return 'cut off'
report('up', cut)
";

#[test]
fn network_limits_are_enforced_and_reported() {
    in_private_netns("network_limits_are_enforced_and_reported", || async {
        let _names = NameServer::serve()
            .await
            .know("web.test", WEB4)
            .know("echo.test", OTHER);

        let web = web().await;
        echo(at(OTHER, 7)).await;
        let sandbox = engine().sandbox().network(network(TIGHT)).await.unwrap();
        let events = NetworkEvents::of(&sandbox);
        let text = python(&sandbox, GREEDY).await;

        for code in ["connections", "connection_rate", "lookup_rate", "bytes"] {
            events.denial(code, |_| true).await;
        }

        let summary = sandbox.network().unwrap().summary;
        assert!(summary.bytes_down <= 3_000_000 + (1 << 20), "{summary:?}");
        assert!(web.seen().len() <= 2);
        let by_web = |what: NetworkAction| {
            move |e: &NetworkEvent| {
                e.what == what && e.name.as_ref().is_some_and(|n| n.as_ref() == "web.test")
            }
        };

        let end = events.denial("bytes", by_web(NetworkAction::End)).await;
        assert!(end.message.contains("`bytes_down`"), "{}", end.message);
        assert!(end.bytes_down > 1_000_000 && end.rule.unwrap().as_ref() == "web");
        events.denial("bytes", by_web(NetworkAction::Request)).await;
        assert_lines(
            &text,
            &[
                "at once: (6, 3)",
                "dials: True",
                "lookups: True",
                "down: ECONNRESET",
                "after: HTTP 403 The limits of the policy `test` deny it: ",
            ],
        );

        upload_limit_is_enforced().await;
    });
}

async fn upload_limit_is_enforced() {
    let rules = TIGHT.replace("bytes_down = 3_000_000", "bytes_up = 2_000_000");
    let sandbox = engine().sandbox().network(network(&rules)).await.unwrap();
    let events = NetworkEvents::of(&sandbox);
    assert_lines(&python(&sandbox, LOUD).await, &["up: cut off"]);
    let end = events
        .denial("bytes", |e| e.what == NetworkAction::End)
        .await;
    assert!(end.message.contains("`bytes_up`"), "{}", end.message);

    // Bytes that the gateway holds when the limit is reached may still be sent.
    let max = 2_000_000 + (1 << 18);
    assert!(
        (2_000_000..=max).contains(&end.bytes_up),
        "{}",
        end.bytes_up
    );
}

//! Connections that a policy allows: by name, HTTP, TLS and raw TCP, from programs in the guest to servers and back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;

use fumehood_end_to_end::guest::{NetworkEvents, engine_without_templates, network, python};
use fumehood_end_to_end::netns::in_private_netns;
use fumehood_end_to_end::servers::{
    CertificateAuthority, DnsAnswer, FULL, MisbehavingServer, NameServer, OTHER, WEB4, WEB6,
    WebServer, at, echo,
};
use fumehood_end_to_end::{engine, finish_ok, run_ok};
use fumehood_engine::{Language, NetworkAction, RunRequest, Sandbox};
use hickory_proto::rr::RecordType;

/// Bytes of a large download.
const LARGE: usize = 24 * 1024 * 1024;

const RULES: &str = r#"
[[allow]]
id = "web"
host = ["web.test", "*.web.test", "six.test"]

[[allow]]
id = "echo"
host = "echo.test"
ports = [7]
raw = true

[[allow]]
id = "address"
addresses = ["203.0.113.11"]
ports = [7]
"#;

async fn names() -> NameServer {
    let many = (1..=80).map(|n| Ipv4Addr::new(203, 0, 113, 100 + n).into());
    let many = [WEB4.parse().unwrap()].into_iter().chain(many).collect();
    NameServer::serve()
        .await
        .know("web.test", &format!("{WEB4} {WEB6}"))
        .know("six.test", WEB6)
        .know("echo.test", OTHER)
        .say(
            "alias.web.test",
            RecordType::A,
            DnsAnswer::Alias("web.test".into()),
        )
        .say(
            "many.web.test",
            RecordType::A,
            DnsAnswer::Addresses(many, 60),
        )
        .say("failing.web.test", RecordType::A, DnsAnswer::Failure)
        .know("bad.test", OTHER)
        .know("full.test", FULL)
}

async fn web(authority: &CertificateAuthority) -> WebServer {
    let web = WebServer::default();
    for address in [WEB4, WEB6] {
        web.serve(at(address, 80)).await;
        let names = ["web.test", "six.test", "alias.web.test"];
        web.serve_tls(at(address, 443), authority.acceptor(&names))
            .await;
    }

    echo(at(OTHER, 7)).await;
    web
}

#[test]
fn allowed_destinations_are_reached() {
    in_private_netns("allowed_destinations_are_reached", || async {
        let authority = CertificateAuthority::trusted();
        let (names, web) = (names().await, web(&authority).await);
        let sandbox = engine().sandbox().network(network(RULES)).await.unwrap();
        let events = NetworkEvents::of(&sandbox);
        let files = sandbox.files();
        files
            .write("ca.pem", authority.pem().to_owned())
            .await
            .unwrap();
        from_python(&sandbox).await;
        from_other_programs(&sandbox).await;
        large_and_concurrent_transfers(&sandbox, &events).await;

        // Each name was looked up at the test's own server; a long answer again by TCP.
        assert!(names.tcp_queries() > 0);
        let queries = names.queries();
        assert!(
            queries.iter().all(|name| name.ends_with(".test")),
            "{queries:?}"
        );

        // Plain HTTP was forwarded unchanged; nothing was denied.
        assert!(
            web.seen()
                .iter()
                .any(|head| head.contains("host: web.test\n"))
        );

        let summary = sandbox.network().unwrap().summary;
        assert_eq!(summary.denials, [], "{summary:?}");
        assert!(summary.bytes_down > 2 * LARGE as u64, "{summary:?}");
        assert!(summary.bytes_up > LARGE as u64, "{summary:?}");
        assert!(summary.connections > 100, "{summary:?}");
        let end = events.find("an end", |event| {
            event.what == NetworkAction::End && event.bytes_down > LARGE as u64
        });

        let end = end.await;
        assert_eq!(
            (end.port, end.rule.unwrap().to_string()),
            (Some(443), "web".into())
        );
        assert_eq!(end.name.unwrap().to_string(), "web.test");
    });
}

async fn from_python(sandbox: &Sandbox) {
    let code = r"
trusting = ssl.create_default_context(cafile='ca.pem')
report('http', lambda: get('http://web.test/'))
report('http, v6', lambda: get('http://six.test/'))
report('https', lambda: get('https://web.test/', trusting))
report('https, v6', lambda: get('https://six.test/', trusting))
report('alias', lambda: get('http://alias.web.test/'))
report('alias, tls', lambda: get('https://alias.web.test/', trusting))
report('many', lambda: len({a[4][0] for a in socket.getaddrinfo('many.web.test', 80, socket.AF_INET, socket.SOCK_STREAM)}))
report('many, http', lambda: get('http://many.web.test/'))
report('absent', lambda: get('http://absent.web.test/'))
report('family', lambda: socket.getaddrinfo('six.test', 80, socket.AF_INET))
report('echo', lambda: connect('echo.test', 7, b'abc'))
report('echo by address', lambda: connect('203.0.113.11', 7, b'def'))
def keep_alive():
    c = http.client.HTTPConnection('web.test')
    said = []
    for _ in range(3):
        c.request('GET', '/')
        said.append(c.getresponse().read().decode().strip())
    return len(said), set(said)
report('keep-alive', keep_alive)
";
    let expected = "http: this is web.test
http, v6: this is six.test
https: this is web.test
https, v6: this is six.test
alias: this is alias.web.test
alias, tls: this is alias.web.test
many: 32
many, http: this is many.web.test
absent: gaierror
family: gaierror
echo: b'abc'
echo by address: b'def'
keep-alive: (3, {'this is web.test'})
";
    assert_eq!(python(sandbox, code).await, expected);
}

async fn from_other_programs(sandbox: &Sandbox) {
    let code = r"
exec 3<>/dev/tcp/web.test/80
printf 'GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n' >&3
tail -n 1 <&3
exec 3<>/dev/tcp/echo.test/7
echo echoed >&3; read -r line <&3; echo $line
curl -sS http://web.test/
curl -sS --cacert ca.pem https://web.test/
curl -sS -6 --cacert ca.pem https://six.test/
";
    let expected =
        "this is web.test\nechoed\nthis is web.test\nthis is web.test\nthis is six.test\n";
    assert_eq!(run_ok(sandbox, Language::Shell, code).await, expected);
    let code = r"
const say = async (url, tls) => console.log((await (await fetch(url, { tls })).text()).trim());
await say('http://web.test/');
await say('https://six.test/', { ca: await Bun.file('ca.pem').text() });
for (const url of ['ws://web.test/ws', 'wss://web.test/ws']) {
  const socket = new WebSocket(url, { tls: { ca: await Bun.file('ca.pem').text() } });
  const echoed = await new Promise((done, failed) => {
    socket.onopen = () => socket.send('hello '.repeat(20000));
    socket.onmessage = (event) => done(event.data.length);
    socket.onerror = (event) => failed(new Error(event.message));
  });
  socket.close();
  console.log(echoed);
}
";
    let expected = "this is web.test\nthis is six.test\n120000\n120000\n";
    assert_eq!(run_ok(sandbox, Language::Javascript, code).await, expected);
}

async fn large_and_concurrent_transfers(sandbox: &Sandbox, events: &NetworkEvents) {
    let code = format!(
        r"
from concurrent.futures import ThreadPoolExecutor
trusting = ssl.create_default_context(cafile='ca.pem')
LARGE = {LARGE}
def digest_of(url):
    digest, length = hashlib.sha256(), 0
    with urllib.request.urlopen(url, context=trusting) as response:
        while piece := response.read(1 << 20):
            digest.update(piece)
            length += len(piece)
    return digest.hexdigest(), length
print(*digest_of(f'http://web.test/bytes/{{LARGE}}'))
print(*digest_of(f'https://web.test/bytes/{{LARGE}}'))
body = os.urandom(LARGE)
said = get('https://web.test/digest', trusting, 'POST', data=body)
print(said == f'{{hashlib.sha256(body).hexdigest()}} {{LARGE}}')
begun = threading.Barrier(50)
def one(n):
    c = http.client.HTTPConnection('web.test', timeout=60)
    c.connect()
    begun.wait(60)
    c.request('GET', f'/bytes/{{1000 + n}}')
    return len(c.getresponse().read())
with ThreadPoolExecutor(50) as pool: print(sum(pool.map(one, range(50))))
with ThreadPoolExecutor(50) as pool: print(sum(pool.map(one, range(50))))
"
    );
    let (digest, sum) = (WebServer::digest_of(LARGE), 50 * 1000 + 49 * 50 / 2);
    let expected = format!("{digest} {LARGE}\n{digest} {LARGE}\nTrue\n{sum}\n{sum}\n");
    assert_eq!(python(sandbox, &code).await, expected);
    let request = events.find("a request", |event| event.what == NetworkAction::Request);
    let request = request.await;
    let method = request.method.as_deref().unwrap_or_default();
    assert_eq!(
        (method, request.status, request.code),
        ("GET", Some(200), "rule")
    );
}

const BAD_RULES: &str = r#"
[[allow]]
host = "bad.test"
ports = "any"
[[allow]]
host = "full.test"
ports = "any"
[[allow]]
host = "web.test"
terminate = true
[[allow]]
host = "failing.web.test"
[[allow]]
addresses = ["203.0.113.11"]
ports = [8001, 8002, 8099]
"#;

/// A Python program that talks to each misbehaving server.
const BAD_REQUESTS: &str = r"
def bad(port): return lambda: get(f'http://bad.test:{port}/')
def hears(port): return lambda: connect('203.0.113.11', port, b'x')
# While the address has no name that a rule is about, anything may be spoken there.
report('closes, raw', hears(8001))
report('resets, raw', hears(8002))
report('nobody, raw', hears(8099))
# The gateway waits a while for this one: meanwhile the others are tried.
full = []
def connect_to_full():
    start = time.monotonic()
    try: result = get('http://full.test:8010/')
    except Exception as error: result = explained(error)
    full.append((result, time.monotonic() - start))
waiting = threading.Thread(target=connect_to_full)
waiting.start()
report('closes', bad(8001))
report('closes, silent', lambda: connect('bad.test', 8001))
report('greets, silent', lambda: connect('bad.test', 8009))
report('resets', bad(8002))
def slow():
    with socket.create_connection(('bad.test', 8003)) as s:
        s.sendall(b'GET / HTTP/1.1\r\nHost: bad.test\r\n\r\n')
        s.settimeout(2)
        return s.recv(100)
report('slow', slow)
report('endless', bad(8004))
report('short', bad(8005))
report('long', bad(8006))
report('breaks', bad(8007))
report('gibberish', bad(8008))
report('nobody', bad(8099))
report('untrusted', lambda: get('https://web.test/'))
report('failing', lambda: get('http://failing.web.test/'))
waiting.join()
print(f'full: {full[0][0]}' + (' late' if full[0][1] > 16 else ''), flush=True)
";

/// Each misbehaving server leads to the right error, and to nothing else.
#[test]
fn misbehaving_servers_are_reported_accurately() {
    in_private_netns("misbehaving_servers_are_reported_accurately", || async {
        let untrusted = CertificateAuthority::untrusted();
        let _trusted = CertificateAuthority::trusted();
        let _names = names().await;
        MisbehavingServer::serve_all().await;
        let web = WebServer::default();
        web.serve_tls(at(WEB4, 443), untrusted.acceptor(&["web.test"]))
            .await;
        let code = format!("{}\n{BAD_REQUESTS}", fumehood_end_to_end::guest::PRELUDE);
        let request = RunRequest::new(Language::Python, code).timeout_s(120);
        let run = engine_without_templates()
            .run(request.network(network(BAD_RULES)))
            .unwrap();

        let (text, outcome) = finish_ok(run).await;
        let lines: Vec<&str> = text.lines().collect();
        let begins = [
            "closes, raw: b''",
            "resets, raw: ECONNRESET",
            "nobody, raw: ECONNREFUSED",
            "closes: ",
            "closes, silent: ECONNRESET",
            "greets, silent: ECONNRESET",
            "resets: HTTP 502",
            "slow: TimeoutError",
            "endless: HTTP 502",
            "short: ECONNRESET",
            "long: few",
            "breaks: ECONNRESET",
            "gibberish: HTTP 502",
            "nobody: ECONNREFUSED",
            "untrusted: HTTP 502",
            "failing: gaierror",
            "full: ECONNREFUSED",
        ];
        assert_eq!(lines.len(), begins.len(), "{text}");
        for (line, begin) in lines.iter().zip(begins) {
            assert!(
                line.starts_with(begin) && !line.ends_with("late"),
                "{begin}\n{text}"
            );
        }

        let denials = outcome.network.unwrap().summary.denials;
        let codes: Vec<_> = denials.iter().map(|denial| denial.event.code).collect();
        assert_eq!(codes, ["not_tls_nor_http"]);
    });
}

/// Special addresses of the namespace. Each has a listener, which must see no connection.
const SPECIAL: [&str; 11] = [
    "127.0.0.1",
    "::1",
    "10.66.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "198.18.0.1",
    "fd00:ec2::254",
    "64:ff9b::c633:6407",
    "2002:c633:6407::1",
];

#[test]
fn the_internet_is_reached_and_nothing_special() {
    in_private_netns("the_internet_is_reached_and_nothing_special", || async {
        let authority = CertificateAuthority::trusted();
        let _web = web(&authority).await;
        let mut names = names().await;
        let mut listeners = Vec::new();
        for (n, address) in SPECIAL.iter().enumerate() {
            names = names.know(&format!("special{n}.test"), address);
            let listener = std::net::TcpListener::bind(at(address, 8080)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listeners.push(listener);
        }

        let policy = network("[[allow]]\ninternet = true");
        let sandbox = engine().sandbox().network(policy).await.unwrap();
        let pem = authority.pem().to_owned();
        sandbox.files().write("ca.pem", pem).await.unwrap();

        // Names and addresses, any port, any protocol, forwarded unread.
        let code = r"
trusting = ssl.create_default_context(cafile='ca.pem')
report('http', lambda: get('http://web.test/'))
report('http, v6', lambda: get('http://six.test/'))
report('https', lambda: get('https://web.test/', trusting))
report('echo', lambda: connect('echo.test', 7, b'abc'))
report('echo by address', lambda: connect('203.0.113.11', 7, b'def'))
report('absent', lambda: get('http://absent.test/'))
";
        let expected = "http: this is web.test
http, v6: this is six.test
https: this is web.test
echo: b'abc'
echo by address: b'def'
absent: gaierror
";
        assert_eq!(python(&sandbox, code).await, expected);

        // Special addresses, by themselves and by a name that resolves to them. Loopback is the guest's own.
        let code = format!(
            "for n, address in enumerate({SPECIAL:?}):\n    \
             report(address, lambda: connect(address, 8080, b'x'))\n    \
             report('name', lambda: connect(f'special{{n}}.test', 8080, b'x'))"
        );
        let said = python(&sandbox, &code).await;
        assert_eq!(said.lines().count(), 2 * SPECIAL.len(), "{said}");
        assert!(!said.contains("b'") && !said.contains("late"), "{said}");
        for (listener, address) in listeners.iter().zip(SPECIAL) {
            let accepted = listener.accept().map(|(_, from)| from);
            let error = accepted.expect_err(address).kind();
            assert_eq!(error, std::io::ErrorKind::WouldBlock, "{address}");
        }

        let summary = sandbox.network().unwrap().summary;
        assert!(summary.denials.len() >= SPECIAL.len() - 2, "{summary:?}");
    });
}

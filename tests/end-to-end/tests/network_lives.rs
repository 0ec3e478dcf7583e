//! The network over the lifetime of a sandbox: exposed ports, forks, checkpoints, templates, and its owner's death.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::process::Stdio;

use fumehood_end_to_end::guest::{NetworkEvents, network, python, start_until_output};
use fumehood_end_to_end::netns::in_private_netns;
use fumehood_end_to_end::servers::{Canaries, NameServer, OTHER, WEB4, WebServer, at, echo};
use fumehood_end_to_end::{
    descendants, engine, fumehood, is_alive, run_in, send, wait_until, within_deadline,
};
use fumehood_engine::{
    Context, ErrorKind, Event, Language, PortMapping, RunRequest, Sandbox, VmOrigin,
};
use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

/// A server in the guest: a page, and an echo by WebSocket.
const SERVER: &str = r"
Bun.serve({
  port: 3000, hostname: '0.0.0.0',
  fetch(request, server) {
    if (server.upgrade(request)) return;
    return new Response(`page for ${request.headers.get('host')}`);
  },
  websocket: { message(socket, text) { socket.send(text); } },
});
Bun.serve({ port: 3001, hostname: '127.0.0.1', fetch: () => new Response('only here') });
console.log('serving');
setInterval(() => {}, 1000);
";

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Sends a request to an exposed port, and returns the response; empty if there is none.
async fn get(url: &str) -> String {
    let mut text = String::new();
    let mut client = TcpStream::connect(address(url)).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: exposed\r\nConnection: close\r\n\r\n";
    let conversation = async {
        client.write_all(request).await?;
        client.read_to_string(&mut text).await
    };

    let _ = within_deadline("an answer", conversation).await;
    text
}

#[test]
fn exposed_ports_allow_no_outgoing_connections() {
    in_private_netns("exposed_ports_allow_no_outgoing_connections", || async {
        let (names, canaries) = (NameServer::serve().await, Canaries::listen().await);
        let expose = |text: &str| text.parse::<PortMapping>().unwrap();
        let network = network("")
            .expose(expose("0:3000"))
            .expose(expose("0:3001"))
            .expose(expose("0:9"));

        let sandbox = engine().sandbox().network(network.clone()).await.unwrap();
        let events = NetworkEvents::of(&sandbox);
        let urls = sandbox.network().unwrap().urls;
        let server = start_until_output(&sandbox, Language::Javascript, SERVER, "serving").await;

        let page = get(&urls[0]).await;
        assert!(
            page.starts_with("HTTP/1.1 200 OK") && page.ends_with("page for exposed"),
            "{page}"
        );

        let many = (0..20).map(|_| get(&urls[0]));
        let many = futures_util::future::join_all(many).await;
        assert!(
            many.iter().all(|page| page.ends_with("page for exposed")),
            "{many:?}"
        );
        assert_echoes(&urls[0]).await;

        // A server on the guest's loopback interface is not reachable, and neither is a port without a server.
        for (url, port) in [(&urls[1], 3001), (&urls[2], 9)] {
            assert_eq!(get(url).await, "");
            events
                .find("an event", |e| {
                    e.code == "not_served" && e.port == Some(port)
                })
                .await;
        }

        let more = sandbox.expose(expose("0:3000")).unwrap();
        assert!(get(&more).await.ends_with("page for exposed"));
        assert_eq!(sandbox.network().unwrap().urls.len(), 4);

        // The port is in use, also for other sandboxes.
        let taken = address(&urls[0]).port();
        let wanted = format!("{taken}:3000");
        let again = network.expose(expose(&wanted));

        for error in [
            engine().sandbox().network(again).await.unwrap_err(),
            sandbox.expose(expose(&wanted)).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(
                error.to_string().contains(&format!("port {taken} ")),
                "{error}"
            );
        }

        // It gives no right to outgoing connections.
        let code = "report('out', lambda: get('http://web.test/'))\nreport('address', lambda: connect('198.51.100.7', 22))";
        let text = python(&sandbox, code).await;
        assert!(
            text.contains("out: HTTP 403") && text.contains("address: ECONNREFUSED"),
            "{text}"
        );
        assert_eq!(names.queries(), Vec::<String>::new());
        canaries.assert_untouched();

        // The ports are closed with the sandbox.
        drop(server);
        drop(sandbox);
        wait_until("a free port", || {
            std::net::TcpListener::bind(address(&urls[0])).is_ok()
        });

        a_run_reports_its_ports().await;
    });
}

async fn assert_echoes(url: &str) {
    let stream = TcpStream::connect(address(url)).await.unwrap();
    let (mut socket, _) = client_async("ws://exposed/", stream).await.unwrap();

    for text in ["a", &"long ".repeat(50_000)] {
        socket.send(Message::text(text)).await.unwrap();
        let transcript = within_deadline("an echo", socket.next())
            .await
            .unwrap()
            .unwrap();
        assert!(transcript.into_text().unwrap() == text);
    }
}

async fn a_run_reports_its_ports() {
    let code = "import http.server as h\nclass H(h.BaseHTTPRequestHandler):\n def do_GET(s):\n  s.send_response(200); s.end_headers(); s.wfile.write(b'once')\nh.HTTPServer(('', 3000), H).handle_request()";
    let network = network("").expose("0:3000".parse().unwrap());
    let request = RunRequest::new(Language::Python, code)
        .timeout_s(120)
        .network(network);

    let mut run = engine().run(request).unwrap();
    let url = loop {
        match within_deadline("an event", run.next()).await {
            Some(Event::Exposed { url }) => break url,
            Some(_) => {}
            None => panic!("it ended without"),
        }
    };

    // It listens a moment later.
    let page = loop {
        match get(&url).await {
            page if page.is_empty() => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await
            }
            page => break page,
        }
    };
    assert!(page.ends_with("once"), "{page}");
    let outcome = within_deadline("an outcome", run.outcome()).await.unwrap();
    assert_eq!(
        (outcome.exit_code, outcome.network.unwrap().urls),
        (Some(0), vec![url])
    );
}

const RULES: &str = r#"
[[allow]]
host = "echo.test"
ports = [7]
raw = true
[[allow]]
host = "web.test"
"#;

/// Opens a connection, of which a thread waits for more.
const OPEN: &str = r"
import socket, threading, time
s = socket.create_connection(('echo.test', 7), 60)
w = socket.create_connection(('echo.test', 7), 60)
w.settimeout(None)
waited = []
def wait():
    begun = time.monotonic()
    try: waited.append(w.recv(1))
    except OSError as e: waited.append(type(e).__name__)
threading.Thread(target=wait, daemon=True).start()
def says(text):
    s.sendall(text)
    return s.recv(100)
print(says(b'first'))
";

const OLD: &str = r"
begun = time.monotonic()
try: print(says(b'old'))
except OSError as e: print(type(e).__name__)
while not waited and time.monotonic() - begun < 20: time.sleep(0.01)
print(waited, time.monotonic() - begun < 5)
";

const ANEW: &str = r"
s = socket.create_connection(('echo.test', 7), 60)
print(says(b'new'))
";

async fn output_of(context: &Context, code: &str) -> String {
    run_in(context, code).await.out().to_owned()
}

/// Checks that a sandbox restored from another one's state has lost that one's connections, and can open its own.
async fn assert_separate_network(sandbox: &Sandbox) {
    let main = sandbox.context("main", Language::Python);
    let old = output_of(&main, OLD).await;
    assert_eq!(old, "ConnectionResetError\n['ConnectionResetError'] True\n");
    assert_eq!(output_of(&main, ANEW).await, "b'new'\n");
    let code = "report('web', lambda: get('http://web.test/'))";
    assert_eq!(python(sandbox, code).await, "web: this is web.test\n");
}

#[test]
fn forks_and_checkpoints_have_separate_networks() {
    in_private_netns("forks_and_checkpoints_have_separate_networks", || async {
        let _names = NameServer::serve()
            .await
            .know("echo.test", OTHER)
            .know("web.test", WEB4);
        WebServer::default().serve(at(WEB4, 80)).await;
        echo(at(OTHER, 7)).await;
        let engine = engine();
        let network = network(RULES).expose("0:3000".parse().unwrap());
        let parent = engine
            .sandbox()
            .language(Language::Python)
            .network(network)
            .await
            .unwrap();

        let main = parent.context("main", Language::Python);
        assert_eq!(output_of(&main, OPEN).await, "b'first'\n");

        let checkpoint = parent.checkpoint().await.unwrap();
        let children = parent.fork(2).await.unwrap();

        // The parent's connections continue. Those of the others are reset, at once, also for threads that only wait.
        assert_eq!(
            output_of(&main, "print(says(b'goes on'), waited)").await,
            "b'goes on' []\n"
        );

        for child in &children {
            assert_eq!(child.source(), VmOrigin::Checkpoint);
            // The host's port stays with the parent.
            assert_eq!(child.network().unwrap().urls, Vec::<String>::new());
            assert_separate_network(child).await;
        }

        let restored = engine.open(&checkpoint).await.unwrap();
        assert_separate_network(&restored).await;
        assert_eq!(
            output_of(&main, "print(says(b'still'), waited)").await,
            "b'still' []\n"
        );

        // A child can be forked again, with its own connections.
        let grandchild = children[0].fork(1).await.unwrap().remove(0);
        assert_separate_network(&grandchild).await;

        // Each sandbox's events are only its own.
        let connections = |sandbox: &Sandbox| sandbox.network().unwrap().summary.connections;
        assert_eq!((connections(&parent), connections(&restored)), (2, 2));
    });
}

#[test]
fn ports_are_free_when_their_owner_is_killed() {
    in_private_netns("ports_are_free_when_their_owner_is_killed", || async {
        let code = "echo up; sleep 160";
        let mut child = fumehood();
        child.args([
            "run",
            "-l",
            "shell",
            "-t",
            "170",
            "--expose",
            "8080:3000",
            "-c",
            code,
        ]);

        let mut child = child
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();

        let mut up = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
        let port = at("127.0.0.1", 8080);
        assert!(
            std::net::TcpListener::bind(port).is_err(),
            "nobody has the port"
        );

        let qemus = descendants(child.id());
        assert!(!qemus.is_empty());
        send(child.id(), Signal::KILL);
        child.wait().unwrap();
        wait_until("the end of QEMU", || {
            !qemus.iter().any(|&pid| is_alive(pid))
        });

        wait_until("a free port", || std::net::TcpListener::bind(port).is_ok());
    });
}

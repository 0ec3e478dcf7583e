//! `fumehood agent`: a real guest's agent for clients in any language.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fumehood_end_to_end::{finish, fumehood, send};
use rustix::process::Signal;
use serde_json::{Value, json};

struct Served {
    child: Child,
    port: u16,
    token: Option<String>,
}

impl Served {
    fn start(options: &[&str]) -> Self {
        let mut command = fumehood();
        command
            .args(["agent", "--listen", "127.0.0.1:0"])
            .args(options);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut word = |begin: &str| {
            lines
                .next()
                .unwrap()
                .unwrap()
                .strip_prefix(begin)
                .unwrap()
                .to_string()
        };
        let port = word("listening on 127.0.0.1:").parse().unwrap();
        let token = (!options.contains(&"--no-token")).then(|| word("token "));
        Self { child, port, token }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(fumehood_end_to_end::DEADLINE))
            .unwrap();
        Client(BufReader::new(stream))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            send(self.child.id(), Signal::INT);
            let _ = self.child.wait();
        }
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn say(&mut self, request: &Value) {
        writeln!(self.0.get_mut(), "{request}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

#[test]
fn a_client_written_from_the_seed_alone_is_served() {
    let served = Served::start(&["--no-token"]);
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client_v0.py");
    // Twice: each connection begins a conversation of its own.
    for _ in 0..2 {
        let mut command = Command::new("python3");
        command
            .arg(&client)
            .args(["127.0.0.1", &served.port.to_string()]);
        let output = finish(command);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("OK"), "{text}");
    }
}

#[test]
fn without_the_token_nobody_gets_in() {
    let served = Served::start(&[]);
    for request in [
        json!({"action": "ping"}),
        json!({"action": "hello", "protocol": 1, "token": "guess"}),
    ] {
        let mut client = served.connect();
        client.say(&request);
        assert_eq!(client.hear()["error_type"], "auth_error");
        if request["action"] == "ping" {
            client.say(&json!({"action": "ping", "op_id": 9}));
            assert_eq!(client.hear()["op_id"], 9, "the connection goes on");
        }
    }
    let mut client = served.connect();
    client.say(&json!({"action": "hello", "protocol": 1, "token": served.token}));
    assert_eq!(client.hear()["protocol"], 1);
    client.say(&json!({"action": "ping", "op_id": 5}));
    assert_eq!(client.hear()["op_id"], 5);
}

#[test]
fn a_client_that_has_said_its_last_still_gets_its_answers() {
    let served = Served::start(&["--no-token"]);
    let mut client = served.connect();
    client.say(
        &json!({"action": "exec", "language": "shell", "code": "sleep 7; echo late", "timeout": 60}),
    );
    client
        .0
        .get_mut()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    assert_eq!(client.hear()["chunk"], "late\n");
    assert_eq!(client.hear()["type"], "complete");
}

#[test]
fn answers_come_through_while_requests_do() {
    const PINGS: u64 = 20_000;
    let served = Served::start(&["--no-token"]);
    let mut client = served.connect();
    let mut writer = client.0.get_ref().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let all: String = (0..PINGS)
            .map(|id| format!("{{\"action\":\"ping\",\"op_id\":{id}}}\n"))
            .collect();
        writer.write_all(all.as_bytes()).unwrap();
    });
    for id in 0..PINGS {
        assert_eq!(client.hear()["op_id"], id);
    }
    sender.join().unwrap();
}

#[test]
fn the_end_of_the_vm_is_noticed_without_a_client() {
    let mut served = Served::start(&["--no-token"]);
    let qemu = fumehood_end_to_end::descendants(served.child.id())[0];
    send(qemu, Signal::KILL);
    let mut status = None;
    fumehood_end_to_end::wait_until("the end of the command", || {
        status = served.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(125));
}

#[test]
fn a_client_that_goes_in_mid_sentence_leaves_no_trace() {
    let served = Served::start(&["--no-token"]);
    let mut first = served.connect();
    first.say(&json!({"action": "exec", "language": "shell", "code": "yes", "timeout": 100}));
    assert_eq!(first.hear()["type"], "stdout");
    first.0.get_mut().write_all(b"{\"action\":\"ex").unwrap();
    drop(first);
    let mut second = served.connect();
    second.say(&json!({"action": "ping"}));
    assert_eq!(second.hear()["type"], "pong");
    second.say(
        &json!({"action": "exec", "language": "shell", "code": "pgrep -c yes", "timeout": 20}),
    );
    assert_eq!(
        second.hear()["chunk"],
        "0\n",
        "the first client's program still runs"
    );
}

//! `fumehood agent`: a real guest's agent for clients in any language.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fumehood_end_to_end::{finish, fumehood, send};
use rustix::process::Signal;
use serde_json::{Value, json};

struct AgentCommand {
    child: Child,
    port: u16,
    token: Option<String>,
}

impl AgentCommand {
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

impl Drop for AgentCommand {
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

    fn read_message(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

#[test]
fn a_client_of_protocol_version_0_is_served() {
    let agent = AgentCommand::start(&["--no-token"]);
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client_v0.py");

    // Twice: each connection has its own session.
    for _ in 0..2 {
        let mut command = Command::new("python3");
        command
            .arg(&client)
            .args(["127.0.0.1", &agent.port.to_string()]);

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
fn a_client_without_the_token_is_rejected() {
    let agent = AgentCommand::start(&[]);
    for request in [
        json!({"action": "ping"}),
        json!({"action": "hello", "protocol": 1, "token": "guess"}),
    ] {
        let mut client = agent.connect();
        client.say(&request);
        assert_eq!(client.read_message()["error_type"], "auth_error");

        if request["action"] == "ping" {
            client.say(&json!({"action": "ping", "op_id": 9}));
            assert_eq!(client.read_message()["op_id"], 9, "the connection goes on");
        }
    }

    let mut client = agent.connect();
    client.say(&json!({"action": "hello", "protocol": 1, "token": agent.token}));
    assert_eq!(client.read_message()["protocol"], 1);
    client.say(&json!({"action": "ping", "op_id": 5}));
    assert_eq!(client.read_message()["op_id"], 5);
}

#[test]
fn a_client_that_closed_its_write_side_still_gets_answers() {
    let agent = AgentCommand::start(&["--no-token"]);
    let mut client = agent.connect();
    client.say(
        &json!({"action": "exec", "language": "shell", "code": "sleep 7; echo late", "timeout": 60}),
    );

    client
        .0
        .get_mut()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    assert_eq!(client.read_message()["chunk"], "late\n");
    assert_eq!(client.read_message()["type"], "complete");
}

#[test]
fn answers_arrive_while_requests_are_still_being_sent() {
    const PINGS: u64 = 20_000;
    let agent = AgentCommand::start(&["--no-token"]);
    let mut client = agent.connect();
    let mut writer = client.0.get_ref().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let all: String = (0..PINGS)
            .map(|id| format!("{{\"action\":\"ping\",\"op_id\":{id}}}\n"))
            .collect();
        writer.write_all(all.as_bytes()).unwrap();
    });

    for id in 0..PINGS {
        assert_eq!(client.read_message()["op_id"], id);
    }

    sender.join().unwrap();
}

#[test]
fn the_command_exits_when_its_vm_dies_without_a_client() {
    let mut agent = AgentCommand::start(&["--no-token"]);
    let qemu = fumehood_end_to_end::descendants(agent.child.id())[0];
    send(qemu, Signal::KILL);
    let mut status = None;
    fumehood_end_to_end::wait_until("the end of the command", || {
        status = agent.child.try_wait().unwrap();
        status.is_some()
    });

    assert_eq!(status.unwrap().code(), Some(125));
}

#[test]
fn a_client_that_disconnects_within_a_request_leaves_nothing_behind() {
    let agent = AgentCommand::start(&["--no-token"]);
    let mut first = agent.connect();
    first.say(&json!({"action": "exec", "language": "shell", "code": "yes", "timeout": 100}));
    assert_eq!(first.read_message()["type"], "stdout");
    first.0.get_mut().write_all(b"{\"action\":\"ex").unwrap();
    drop(first);
    let mut second = agent.connect();
    second.say(&json!({"action": "ping"}));
    assert_eq!(second.read_message()["type"], "pong");
    second.say(
        &json!({"action": "exec", "language": "shell", "code": "pgrep -c yes", "timeout": 20}),
    );

    assert_eq!(
        second.read_message()["chunk"],
        "0\n",
        "the first client's program still runs"
    );
}

/// The whole conformance suite in a VM. `UPDATE=1` writes the published report.
#[test]
fn the_agent_in_a_vm_conforms_to_the_specification() {
    let agent = AgentCommand::start(&[]);
    let address = format!("tcp://127.0.0.1:{}", agent.port);
    let output = fumehood()
        .args(["conformance", &address, "--json", "--token"])
        .arg(agent.token.as_ref().unwrap())
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));

    let clauses = report["clauses"].as_array().unwrap();
    let failed: Vec<_> = clauses
        .iter()
        .filter(|clause| clause["verdict"] == "fail")
        .collect();
    assert!(output.status.success() && failed.is_empty(), "{failed:#?}");

    // What needs a guest is tested here, and nowhere else.
    for id in ["END-5", "SAVE-4", "SAVE-5", "TOKEN-2"] {
        let verdict = clauses
            .iter()
            .find(|clause| clause["id"] == id)
            .map(|clause| &clause["verdict"]);
        assert_eq!(verdict, Some(&json!("pass")), "{id}");
    }
    if std::env::var_os("UPDATE").is_some() {
        write_report(clauses);
    }
}

fn write_report(clauses: &[Value]) {
    let mut text = "# Conformance of the agent in a VM\n\nWritten by `UPDATE=1 cargo xtask test conforms`, through \
        `fumehood agent`; see\n[Conformance](../reference/conformance.md).\n\n| clause | demand | verdict |\n| --- | --- | --- |\n"
        .to_owned();
    for clause in clauses {
        let [id, summary, verdict] =
            ["id", "summary", "verdict"].map(|field| clause[field].as_str().unwrap());
        text += &format!("| `{id}` | {summary} | {} |\n", verdict.replace('_', " "));
    }

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance/report-vm.md");
    std::fs::write(path, text).unwrap();
}

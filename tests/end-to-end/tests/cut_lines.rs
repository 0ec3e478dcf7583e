//! An idempotency key runs once, wherever the connection to its client breaks: over TCP, to the agent of a real guest.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use fumehood_end_to_end::{DEADLINE, fumehood, send, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Runs once: it adds a line to a file, and says five things.
const CODE: &str = "echo run >> runs; for n in 1 2 3 4 5; do echo $n; sleep 0.01; done; exit 7";
const OUTPUT: &str = "1\n2\n3\n4\n5\n";

/// `fumehood agent`, and how often programs have run in it.
struct AgentCommand {
    child: Child,
    port: u16,
    runs: usize,
}

impl AgentCommand {
    fn start() -> Self {
        let mut command = fumehood();
        command.args(["agent", "--no-token", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening on 127.0.0.1:").unwrap();
        let port = port.parse().unwrap();

        Self {
            child,
            port,
            runs: 0,
        }
    }

    /// Connects a client and exchanges greetings.
    fn hello(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut client = Client(BufReader::new(stream));
        client.say(&json!({"action": "hello", "protocol": 1, "features": ["contexts", "cancel"]}));
        assert_eq!(client.read_message()["type"], "hello");
        client
    }

    /// Sends the request twice more: it runs now, or is attached, or its record is returned; in total it has run once.
    fn check(&mut self, what: &str, request: &Value) {
        for _ in 0..2 {
            let (output, complete) = self.hello().whole(request);
            assert_eq!(output, OUTPUT, "{what}");
            assert_eq!(
                (&complete["ended_by"], &complete["exit_code"]),
                (&json!("exited"), &json!(7)),
                "{what}: {complete}"
            );
            assert_eq!(
                complete["stdout"]["bytes"],
                OUTPUT.len(),
                "{what}: {complete}"
            );
        }

        self.runs += 1;
        let count = json!({"action": "exec", "language": "shell", "code": "wc -l < runs", "op_id": 9, "timeout": 60});
        assert_eq!(
            self.hello().whole(&count).0,
            format!("{}\n", self.runs),
            "{what}"
        );
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

    /// A request's standard output, and its end.
    fn whole(&mut self, request: &Value) -> (String, Value) {
        self.say(request);
        let (mut output, mut seq) = (String::new(), 0);

        loop {
            let message = self.read_message();
            match message["type"].as_str().unwrap() {
                "stdout" => {
                    assert_eq!(message["seq"], seq, "{message}");
                    output += message["chunk"].as_str().unwrap();
                    seq += 1;
                }
                "complete" => return (output, message),
                "attached" => assert_eq!(message["seq"], 0, "{message}"),
                "started" | "queued" => {}
                _ => panic!("{message}"),
            }
        }
    }
}

/// An exec, an exec in a context, and a program, under this key.
fn requests(key: &str) -> [(&'static str, Value); 3] {
    let exec =
        json!({"action": "exec", "language": "shell", "code": CODE, "timeout": 60, "op_id": 1});
    let mut in_context = exec.clone();
    in_context["context"] = json!("c");
    in_context["code"] = json!(CODE.replace("exit 7", "(exit 7)"));
    let program = json!({"action": "spawn", "argv": ["sh", "-c", CODE], "op_id": 1});
    [("exec", exec), ("context", in_context), ("spawn", program)].map(|(what, mut request)| {
        request["idempotency_key"] = json!(format!("{what}-{key}"));
        (what, request)
    })
}

#[test]
fn a_key_runs_once_when_the_connection_breaks_after_any_message() {
    let mut agent = AgentCommand::start();
    // Its start, five pieces of output, its end.
    for messages in 0..=7 {
        for (what, request) in requests(&messages.to_string()) {
            let mut client = agent.hello();
            client.say(&request);

            for _ in 0..messages {
                if client.read_message()["type"] == "complete" {
                    break;
                }
            }

            drop(client);
            agent.check(&format!("{what} after {messages} messages"), &request);
        }
    }
}

#[test]
fn a_key_runs_once_when_the_connection_breaks_within_a_message() {
    let mut agent = AgentCommand::start();
    let [_, (_, longest), _] = requests("cut-000");
    let len = format!("{longest}\n").len();

    for cut in (0..len).step_by(37).chain([len - 2, len - 1, len]) {
        for (what, request) in requests(&format!("cut-{cut:03}")) {
            let line = format!("{request}\n");
            // From the end, where it matters.
            let cut = line.len().saturating_sub(len - cut);
            let mut client = agent.hello();
            client
                .0
                .get_mut()
                .write_all(&line.as_bytes()[..cut])
                .unwrap();
            drop(client);
            agent.check(&format!("{what} cut at {cut}"), &request);
        }
    }

    for bytes in [1, 30, 70, 130, 250] {
        for (what, request) in requests(&format!("read-{bytes}")) {
            let mut client = agent.hello();
            client.say(&request);
            client.0.read_exact(&mut vec![0; bytes]).unwrap();
            drop(client);
            agent.check(
                &format!("{what} cut after {bytes} bytes of answers"),
                &request,
            );
        }
    }
}

/// A client that greets again on the same connection detaches its runs; events go to the client that attached last.
#[test]
fn a_key_runs_once_for_many_clients() {
    let mut agent = AgentCommand::start();
    for (what, request) in requests("many") {
        for _ in 0..5 {
            let mut client = agent.hello();
            client.say(&request);
            client.say(&json!({"action": "hello", "protocol": 1}));
            while client.read_message()["type"] != "hello" {}
        }

        agent.check(what, &request);
    }

    // Without a key, the detached program is ended, and the same request runs it again.
    let mut request = requests("none")[0].1.clone();
    request.as_object_mut().unwrap().remove("idempotency_key");
    let code = "echo run >> left; sleep 100";
    request["code"] = json!(code);
    let count = |agent: &AgentCommand, code: &str| {
        let count =
            json!({"action": "exec", "language": "shell", "code": code, "op_id": 9, "timeout": 60});
        agent.hello().whole(&count).0
    };

    for n in 1..=2 {
        let mut client = agent.hello();
        client.say(&request);

        // It runs before the line breaks.
        let up = json!({"action": "exec", "language": "shell", "code": format!("until [ \"$(cat left 2> /dev/null | wc -l)\" = {n} ]; do sleep 0.05; done"), "op_id": 2, "timeout": 60});
        let (_, complete) = client.whole(&up);
        assert_eq!(complete["exit_code"], 0, "{complete}");
        drop(client);
        wait_until("the end of what was left", || {
            count(&agent, "pgrep -xc sleep || true") == "0\n"
        });
    }
}

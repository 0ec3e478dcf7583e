//! `hello`, tokens, and the order of answers.

use std::io::Write;
use std::process::Command;

use fumehood_protocol::{ErrorType, Hello, Language, PROTOCOL_VERSION, Request, Response};

use crate::support::{Agent, exec, op_id, padded};

fn hello(token: Option<&str>) -> Request {
    Request::Hello(Hello {
        protocol: 1,
        token: token.map(Into::into),
        ..Hello::default()
    })
}

fn with_token() -> (Agent, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"a secret\n").unwrap();
    let agent = Agent::start(&["--token-file", file.path().to_str().unwrap()]);
    (agent, file)
}

#[test]
fn the_seeds_client() {
    let agent = Agent::open();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/client_v0.py");
    let (host, port) = agent.address.split_once(':').unwrap();
    let output = Command::new("python3")
        .args([script, host, port])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout, b"OK\n");
}

#[test]
fn hello_agrees_on_common_features() {
    let agent = Agent::open();
    let mut client = agent.connect();
    client.line(r#"{"action":"hello","op_id":3,"protocol":7,"nonce":"n","features":["credit","teleport","raw_frames"]}"#);
    let Response::Hello(reply) = client.response() else {
        panic!("no hello")
    };
    assert_eq!(
        (reply.protocol, reply.op_id.unwrap().get()),
        (PROTOCOL_VERSION, 3)
    );
    assert_eq!(reply.features, ["raw_frames", "credit"]);
    assert_eq!(reply.nonce.as_deref(), Some("n"));
    client.line(r#"{"action":"hello","protocol":0,"features":["credit"]}"#);
    let Response::Hello(again) = client.response() else {
        panic!("no hello")
    };
    assert_eq!((again.protocol, again.features.len()), (0, 0));
    assert_eq!(again.boot_id, reply.boot_id);
    let Response::Hello(other) = ({
        let other = Agent::open();
        let mut client = other.connect();
        client.send(&hello(None));
        client.response()
    }) else {
        panic!("no hello")
    };
    assert_ne!(other.boot_id, reply.boot_id);
}

#[test]
fn requests_need_the_token() {
    let (agent, _file) = with_token();
    let mut client = agent.connect();
    client.expect_error(r#"{"action":"ping"}"#, ErrorType::AuthError, &["hello"]);
    client.send(&Request::Exec(exec(Some(1), Language::Shell, "echo no")));
    assert_eq!(client.error().error_type, ErrorType::AuthError);
    client.send(&hello(Some("a secret")));
    assert!(matches!(client.response(), Response::Hello(_)));
    client.ping();
    let code = padded("echo yes", "\n", 100_000);
    assert_eq!(
        client.shell(&code).out(),
        "yes\n",
        "the long lines of a friend are read"
    );
}

#[test]
fn wrong_token_closes_the_connection() {
    let (agent, _file) = with_token();
    for token in [
        None,
        Some(""),
        Some("a secre"),
        Some("a secret "),
        Some("A secret"),
    ] {
        let mut client = agent.connect();
        client.send(&hello(token));
        assert_eq!(client.error().error_type, ErrorType::AuthError, "{token:?}");
        assert!(
            client.try_message().is_none(),
            "{token:?}: the connection stays open"
        );
    }
}

#[test]
fn program_cannot_read_the_token() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root can read everything");
        return;
    }
    let agent = Agent::open();
    let pid = agent.pid();
    let outcome = agent.connect().shell(&format!("cat /proc/{pid}/environ"));
    assert_eq!(outcome.complete().exit_code, 1, "{}", outcome.out());
}

#[test]
fn requests_without_op_id_are_answered_in_order() {
    let agent = Agent::open();
    let mut client = agent.connect();
    client.line(r#"{"action":"exec","language":"shell","code":"sleep 0.3; echo one"}"#);
    client.line(r#"{"action":"ping"}"#);
    client.line("rubbish");
    client.line(r#"{"action":"exec","language":"shell","code":"echo two"}"#);
    assert_eq!(client.outcome().out(), "one\n");
    assert!(matches!(client.response(), Response::Pong(_)));
    assert_eq!(client.error().error_type, ErrorType::RequestError);
    assert_eq!(client.outcome().out(), "two\n");
}

#[test]
fn a_thousand_requests_at_once_are_answered_in_order() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for n in 0..1000 {
        client.line(format!(r#"{{"action":"ping","op_id":{n}}}"#));
    }
    for n in 0..1000 {
        assert_eq!(op_id(&client.response()), Some(n));
    }
}

#[test]
fn live_op_id_is_rejected_and_a_finished_one_is_not() {
    let agent = Agent::open();
    let mut client = agent.hello(&[]);
    client.exec(1, Language::Shell, "sleep 60");
    client.exec(1, Language::Shell, "echo no");
    let error = client.error();
    assert_eq!(error.error_type, ErrorType::RequestError);
    assert!(error.message.contains("op_id"), "{}", error.message);
    client.cancel(1);
    assert!(matches!(client.response(), Response::Complete(_)));
    client.exec(1, Language::Shell, "echo yes");
    assert_eq!(client.outcome().out(), "yes\n");
}

#[test]
fn new_hello_ends_running_operations() {
    let agent = Agent::open();
    let mut client = agent.hello(&[]);
    client.exec(1, Language::Shell, "echo begun; sleep 60");
    assert!(matches!(client.response(), Response::Stdout(_)));
    client.send(&hello(None));
    assert!(matches!(client.response(), Response::Hello(_)));
    crate::support::wait_until("the program is killed", || agent.children().is_empty());
    client.exec(1, Language::Shell, "echo again");
    assert_eq!(client.outcome().out(), "again\n");
}

#[test]
fn new_hello_is_read_behind_half_a_line_and_a_running_program() {
    let agent = Agent::open();
    let mut client = agent.connect();
    client
        .line(r#"{"action":"exec","language":"shell","code":"echo begun; sleep 60","timeout":60}"#);
    assert!(matches!(client.response(), Response::Stdout(_)));
    client.line(r#"{"action":"pi"#);
    client.send(&hello(None));
    assert!(matches!(client.response(), Response::Hello(_)));
    client.ping();
}

#[test]
fn cancel_and_credit_for_unknown_operations_are_ignored() {
    let agent = Agent::open();
    let mut client = agent.hello(&["cancel", "credit"]);
    client.cancel(77);
    client.credit(77, 1);
    client.ping();
}

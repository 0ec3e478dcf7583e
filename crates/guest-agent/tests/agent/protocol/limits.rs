//! Every limit that a client can reach: exactly at the limit, and one beyond it.

use std::collections::BTreeMap;

use fumehood_protocol::{ErrorType, Language, Request, Response};
use serde_json::json;

use crate::support::{Agent, Client, exec, padded};

fn run(
    client: &mut Client,
    code: &str,
    vars: &BTreeMap<String, String>,
) -> Result<String, (ErrorType, String)> {
    let line = json!({"action": "exec", "language": "shell", "code": code, "env_vars": vars, "timeout": 60});
    client.line(line.to_string());
    let outcome = client.outcome();
    match outcome.error {
        Some(error) => Err((error.error_type, error.message)),
        None => Ok(outcome.out().to_string()),
    }
}

fn refused(result: Result<String, (ErrorType, String)>, error_type: ErrorType, parts: &[&str]) {
    let (found, message) = result.unwrap_err();
    assert_eq!(found, error_type, "{message}");
    for part in parts {
        assert!(message.contains(part), "no {part} in: {message}");
    }
}

#[test]
fn code() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = |len: usize| padded("echo done", "\n", len);
    assert_eq!(
        run(&mut client, &code(2_097_152), &BTreeMap::new()).unwrap(),
        "done\n"
    );
    let past = run(&mut client, &code(2_097_153), &BTreeMap::new());
    refused(past, ErrorType::CodeError, &["2097153", "2097152"]);
    client.ping();
}

#[test]
fn code_for_python_at_the_limit() {
    let agent = Agent::open();
    let code = padded("", "\n", 2_097_152 - 13) + "print('done')";
    assert_eq!(agent.connect().python(&code).out(), "done\n");
}

#[test]
fn environment() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let vars = |n: usize| (0..n).map(|n| (format!("VAR_{n}"), "x".into())).collect();
    let one = |name: usize, value: usize| BTreeMap::from([("N".repeat(name), "v".repeat(value))]);
    let count = "env | grep -c ^VAR_";
    assert_eq!(run(&mut client, count, &vars(100)).unwrap(), "100\n");
    refused(
        run(&mut client, count, &vars(101)),
        ErrorType::EnvVarError,
        &["101", "100"],
    );
    let length = "env | grep ^NNN | tr -d '\\n' | wc -c";
    assert_eq!(
        run(&mut client, length, &one(256, 4096)).unwrap().trim(),
        (256 + 1 + 4096).to_string()
    );
    refused(
        run(&mut client, length, &one(257, 1)),
        ErrorType::EnvVarError,
        &["257", "256"],
    );
    refused(
        run(&mut client, length, &one(3, 4097)),
        ErrorType::EnvVarError,
        &["4097", "4096"],
    );
}

#[test]
fn timeouts() {
    let agent = Agent::start(&[
        "--no-token",
        "--limit",
        "timeout_s=7",
        "--limit",
        "default_exec_timeout_s=1",
    ]);
    let mut client = agent.connect();
    let line = |timeout: i64| {
        json!({"action": "exec", "language": "shell", "code": "exit 3", "timeout": timeout})
            .to_string()
    };
    for good in [0, 7] {
        client.line(line(good));
        assert_eq!(client.outcome().complete().exit_code, 3, "{good}");
    }
    client.expect_error(line(8), ErrorType::RequestError, &["8 seconds", "0 to 7"]);
    client.expect_error(line(-1), ErrorType::RequestError, &["-1"]);
    client.line(r#"{"action":"exec","language":"shell","code":"sleep 30"}"#);
    let took = client.outcome().complete().execution_time_ms;
    assert!(
        (1000..5000).contains(&took),
        "the default of 1 s: {took} ms"
    );
}

#[test]
fn packages() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let line = |packages: &[String], timeout: u64| {
        json!({"action": "install_packages", "language": "python", "packages": packages, "timeout": timeout}).to_string()
    };
    let many = |n: usize| (0..n).map(|n| format!("p{n}==1")).collect::<Vec<_>>();
    // No package index is contacted here.
    agent.install_program("uv", "exit 7");
    let accepts = |client: &mut crate::support::Client, line: String| {
        client.line(line);
        assert_eq!(client.outcome().complete().exit_code, 7);
    };
    accepts(&mut client, line(&many(50), 1));
    client.expect_error(line(&many(51), 1), ErrorType::PackageError, &["51", "50"]);
    accepts(&mut client, line(&["n".repeat(214) + "==1"], 300));
    client.expect_error(
        line(&["n".repeat(215) + "==1"], 1),
        ErrorType::PackageError,
        &["215", "214"],
    );
    accepts(
        &mut client,
        line(&["a==".to_string() + &"1".repeat(509)], 1),
    );
    client.expect_error(
        line(&["a==".to_string() + &"1".repeat(510)], 1),
        ErrorType::PackageError,
        &["513", "512"],
    );
    client.expect_error(line(&many(1), 0), ErrorType::RequestError, &["1 to 300"]);
    client.expect_error(line(&many(1), 301), ErrorType::RequestError, &["301"]);
}

#[test]
fn operations() {
    let agent = Agent::start(&["--no-token", "--limit", "operations=3"]);
    let mut client = agent.hello(&[]);
    for id in 1..=4 {
        client.exec(id, Language::Shell, "sleep 60");
    }
    let error = client.error();
    assert_eq!(
        (error.error_type, error.op_id.unwrap().get()),
        (ErrorType::BusyError, 4)
    );
    assert!(error.message.contains('3'), "{}", error.message);
    client.cancel(2);
    assert!(matches!(client.response(), Response::Complete(_)));
    client.exec(4, Language::Shell, "exit 5");
    assert_eq!(client.outcome().complete().exit_code, 5);
}

#[test]
fn connections() {
    let agent = Agent::start(&["--no-token", "--limit", "connections=2"]);
    let mut clients = [agent.connect(), agent.connect()];
    clients.iter_mut().for_each(Client::ping);
    let mut third = agent.connect();
    let error = third.error();
    assert_eq!(error.error_type, ErrorType::BusyError);
    assert!(error.message.contains('2'), "{}", error.message);
    assert!(third.try_message().is_none());
    let [first, mut second] = clients;
    drop(first);
    second.ping();
    agent.connect().ping();
}

#[test]
fn tokens_and_nonces() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for field in ["token", "nonce"] {
        let line = |len: usize| {
            json!({"action": "hello", "protocol": 1, field: "x".repeat(len)}).to_string()
        };
        client.line(line(1024));
        assert!(matches!(client.response(), Response::Hello(_)));
        client.expect_error(
            line(1025),
            ErrorType::RequestError,
            &[field, "1025", "1024"],
        );
    }
}

#[test]
fn chunks() {
    let agent = Agent::start(&["--no-token", "--limit", "chunk_bytes=1000"]);
    let mut client = agent.hello(&["raw_frames"]);
    client.send(&Request::Exec(exec(
        Some(1),
        Language::Shell,
        "head -c 100000 /dev/zero",
    )));
    let outcome = client.outcome();
    assert_eq!(outcome.stdout.len(), 100_000);
    assert!(outcome.pieces.iter().all(|piece| piece.len() <= 1000));
}

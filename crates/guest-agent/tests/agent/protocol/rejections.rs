//! Invalid input and its errors. After each error the connection still works.

use fumehood_protocol::{BLOCKED_NAMES, ErrorType, Language};

use crate::support::{Agent, padded};

#[test]
fn invalid_requests() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let request = ErrorType::RequestError;
    for (line, part) in [
        ("", "object"),
        ("hello", "object"),
        ("[]", "object"),
        ("{", "EOF"),
        ("{}", "`action`"),
        (r#"{"action":"dance"}"#, "`dance`"),
        (r#"{"action":"ping","x":1}"#, "`x`"),
        (r#"{"action":"exec","language":"python"}"#, "`code`"),
        (
            r#"{"action":"exec","language":"python","code":7}"#,
            "`code`",
        ),
        (
            r#"{"action":"exec","language":"cobol","code":""}"#,
            "`language`",
        ),
        (
            r#"{"action":"exec","language":"shell","code":"","timeout":"1"}"#,
            "`timeout`",
        ),
        (r#"{"action":"ping","op_id":9007199254740992}"#, "`op_id`"),
    ] {
        client.expect_error(line, request, &[part]);
    }
    client.expect_error(
        b"{\"action\":\"\xff\"}",
        ErrorType::ProtocolError,
        &["UTF-8"],
    );
    client.ping();
}

#[test]
fn error_carries_its_op_id() {
    let agent = Agent::open();
    let mut client = agent.connect();
    client.line(r#"{"action":"exec","op_id":9,"language":"shell"}"#);
    assert_eq!(
        client.error().op_id.map(fumehood_protocol::OpId::get),
        Some(9)
    );
}

#[test]
fn environment_variables() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let line = |name: &str, value: &str| {
        let vars = serde_json::json!({ name: value });
        serde_json::json!({"action": "exec", "language": "shell", "code": "", "env_vars": vars})
            .to_string()
    };
    for (name, value) in [
        ("A", "\u{1b}[0m"),
        ("A", "\u{0}"),
        ("A\t", ""),
        ("", ""),
        ("A=B", ""),
    ] {
        client.expect_error(line(name, value), ErrorType::EnvVarError, &[]);
    }
    for name in BLOCKED_NAMES {
        client.expect_error(line(name, "x"), ErrorType::EnvVarError, &[name, "blocked"]);
    }
    client.expect_error(
        line("LD_PRELOAD", "x"),
        ErrorType::EnvVarError,
        &["LD_PRELOAD"],
    );
    client.ping();
}

#[test]
fn packages() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let line = |language: &str, packages: &[&str]| {
        serde_json::json!({"action": "install_packages", "language": language, "packages": packages}).to_string()
    };
    for bad in [
        "a",
        "../a==1",
        "a/b==1",
        "a\\b==1",
        "https://a==1",
        "--index=1",
        "-e==1",
        "a @ file",
        "",
    ] {
        client.expect_error(line("python", &[bad]), ErrorType::PackageError, &[]);
    }
    client.expect_error(
        line("shell", &["a==1"]),
        ErrorType::PackageError,
        &["shell"],
    );
    client.expect_error(
        line("python", &[]),
        ErrorType::PackageError,
        &["0 packages"],
    );
    // The installer's own message explains why a package cannot be installed.
    for (language, tool, package) in [("python", "uv", "a==1"), ("javascript", "bun", "a@1")] {
        agent.install_program(tool, "echo \"$0 says no to $*\" >&2; exit 3");
        client.line(line(language, &[package]));
        let outcome = client.outcome();
        assert_eq!(outcome.complete().exit_code, 3);
        assert!(outcome.err().contains(package), "{}", outcome.err());
    }
    client.ping();
}

#[test]
fn too_long_line_is_dropped_and_the_next_one_is_read() {
    let agent = Agent::start(&["--no-token", "--limit", "line_bytes=1000"]);
    let mut client = agent.connect();
    let padded = |len: usize| padded(r#"{"action":"ping"}"#, " ", len);
    client.line(padded(1000));
    assert!(matches!(
        client.response(),
        fumehood_protocol::Response::Pong(_)
    ));
    client.expect_error(
        padded(1001),
        ErrorType::ProtocolError,
        &["1000", "line_bytes"],
    );
    client.expect_error(padded(1_000_000), ErrorType::ProtocolError, &["1000"]);
    client.ping();
}

#[test]
fn line_of_a_gigabyte_is_not_stored() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let part = vec![b'x'; 1 << 20];
    for _ in 0..200 {
        std::io::Write::write_all(&mut client.stream, &part).unwrap();
    }
    assert!(
        agent.resident_kib() < 64 * 1024,
        "{} KiB",
        agent.resident_kib()
    );
    client.line("");
    assert_eq!(client.error().error_type, ErrorType::ProtocolError);
    client.ping();
}

#[test]
fn garbage_does_not_crash_the_agent() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let deep = format!(r#"{{"action":"ping","x":{}"#, "[".repeat(1_000_000));
    client.expect_error(deep, ErrorType::RequestError, &[]);
    let many = format!(
        r#"{{"action":"exec","language":"shell","code":"","env_vars":{{{}"#,
        r#""a":"","#.repeat(500_000)
    );
    client.expect_error(many, ErrorType::RequestError, &[]);
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..200_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        })
        .collect();
    let lines = noise.iter().filter(|byte| **byte == b'\n').count() + 1;
    client.line(noise);
    for _ in 0..lines {
        client.error();
    }
    client.ping();
    assert_eq!(client.run(Language::Shell, "echo alive").out(), "alive\n");
}

#[test]
fn missing_interpreter_is_named() {
    if crate::support::bun().is_some() {
        eprintln!("skipped: this machine has bun");
        return;
    }
    let agent = Agent::open();
    let error = agent
        .connect()
        .run(Language::Javascript, "1")
        .error
        .unwrap();
    assert_eq!(error.error_type, ErrorType::AgentError);
    assert!(error.message.contains("`bun`"), "{}", error.message);
}

//! Framing and requests: lines, objects, fields.

use std::time::Duration;

use serde_json::json;

use crate::client::{Check, ensure};
use crate::lab::{Clause, Lab, ends_with, shell, succeed, with};

/// The limit `line_bytes`.
const LINE_BYTES: usize = 16 * 1024 * 1024;

/// How long an agent may take to respond to the end of a stream, or to close the connection.
const END_OF_STREAM: Duration = Duration::from_secs(2);

pub(super) const CLAUSES: &[Clause] = &[
    Clause::observed("FRAME-1", 0, "each message is one JSON object on one line"),
    Clause::new(
        "FRAME-2",
        0,
        "a request has an `action`, a response a `type`",
        action_and_type,
    ),
    Clause::new(
        "FRAME-3",
        0,
        "how lines are divided into writes has no meaning",
        divided_writes,
    ),
    Clause::new(
        "FRAME-4",
        0,
        "bytes without a newline are not a request",
        half_line,
    ),
    Clause::new(
        "FRAME-5",
        0,
        "a line longer than `line_bytes` is rejected",
        too_long_line,
    ),
    Clause::new(
        "FRAME-6",
        0,
        "after a line that is too long, the next one is read",
        line_after_too_long_one,
    ),
    Clause::new(
        "FRAME-7",
        0,
        "a field that is not listed is rejected",
        unknown_field,
    ),
    Clause::new(
        "FRAME-8",
        0,
        "a field that occurs twice is rejected",
        duplicate_field,
    ),
    Clause::new(
        "FRAME-9",
        0,
        "the order of fields, and space between tokens, have no meaning",
        spaces,
    ),
    Clause::new(
        "FRAME-10",
        1,
        "nor may an object within a request have other fields",
        unknown_field_within,
    ),
    Clause::new("REQ-1", 0, "`ping` is answered by `pong`", ping),
    Clause::new(
        "REQ-2",
        0,
        "an exec is answered by output and one `complete`",
        one_complete,
    ),
    Clause::new(
        "REQ-3",
        0,
        "Python and the shell run under their names",
        languages,
    ),
    Clause::new(
        "REQ-4",
        1,
        "the other names of the languages are accepted",
        language_aliases,
    ),
    Clause::new(
        "REQ-5",
        1,
        "`signal`, `resize`, `credit` and `cancel` are not answered",
        silent_requests,
    ),
];

fn action_and_type(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    client.line("{}")?;
    client.receive()?.expect_error("request_error")?;
    client.line(r#"{"type":"ping"}"#)?;
    client.receive()?.expect_error("request_error")?;
    client.ping()
}

fn divided_writes(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;

    for byte in shell("echo bytes").to_string().bytes() {
        client.write(&[byte])?;
    }
    client.write(b"\n")?;
    let outcome = succeed(client.collect(None)?)?;
    ensure!(
        outcome.out() == "bytes\n",
        "a line in single bytes: {}",
        outcome.show()
    );

    let pings = r#"{"action":"ping"}"#.to_owned() + "\n";
    client.write(pings.repeat(100).as_bytes())?;
    for _ in 0..100 {
        client.receive()?.expect("pong")?;
    }

    // One and a half lines, then the rest.
    client.write(format!("{pings}{}", &pings[..9]).as_bytes())?;
    client.receive()?.expect("pong")?;
    client.write(&pings.as_bytes()[9..])?;
    client.receive()?.expect("pong").map(drop)
}

fn half_line(lab: &Lab<'_>) -> Check {
    // An agent that took these bytes for a request would answer at once.
    let mut client = lab.seed()?;
    client.write(br#"{"action":"ping"}"#)?;
    client.end_without_response(END_OF_STREAM)?;
    drop(client);

    let file = format!("/tmp/{}", lab.tag);
    let mut client = lab.seed()?;
    client.write(shell(&format!("echo ran > {file}")).to_string().as_bytes())?;
    drop(client);

    // A later connection comes after the end of the first one.
    for _ in 0..3 {
        let outcome = lab.shell(&format!("cat {file} 2>/dev/null; true"))?;
        ensure!(
            outcome.out().is_empty(),
            "a request without a newline was executed: {}",
            outcome.show()
        );
    }
    Ok(())
}

fn too_long_line(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let padded = |len: usize| {
        let line = r#"{"action":"ping"}"#;
        line.to_owned() + &" ".repeat(len - line.len())
    };

    client.line(padded(LINE_BYTES))?;
    client.receive()?.expect("pong")?;
    client.line(padded(LINE_BYTES + 1))?;
    client.receive()?.expect_error("protocol_error").map(drop)
}

fn line_after_too_long_one(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let part = vec![b'x'; 1 << 20];
    for _ in 0..17 {
        client.write(&part)?;
    }
    client.line("")?;
    client.receive()?.expect_error("protocol_error")?;

    let outcome = succeed(client.run(&shell("echo next"))?)?;
    ensure!(
        outcome.out() == "next\n",
        "the next line: {}",
        outcome.show()
    );
    Ok(())
}

fn unknown_field(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let requests = [
        json!({"action": "ping", "x": 1}),
        with(shell("true"), &json!({"user": "root"})),
        with(shell("true"), &json!({"": null})),
        json!({"action": "install_packages", "language": "python", "packages": ["a==1"], "code": ""}),
    ];
    for request in requests {
        client.ask(&request)?.expect_error("request_error")?;
    }
    client.ping()
}

fn unknown_field_within(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let chunk = json!({"encoding": "base64", "data": "", "x": 1});
    let pty = json!({"rows": 1, "cols": 1, "x": 1});
    for request in [
        json!({"action": "stdin", "op_id": 1, "chunk": chunk}),
        json!({"action": "spawn", "argv": ["true"], "op_id": 1, "pty": pty}),
    ] {
        client.ask(&request)?.expect_error("request_error")?;
    }
    client.ping()
}

fn duplicate_field(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for line in [
        r#"{"action":"ping","action":"ping"}"#,
        r#"{"action":"exec","language":"raw","code":"true","code":"true"}"#,
        r#"{"action":"exec","language":"raw","language":"python","code":""}"#,
        r#"{"action":"exec","language":"raw","code":"","timeout":5,"timeout":5}"#,
        r#"{"action":"exec","language":"raw","code":"","env_vars":{"A":"1","A":"1"}}"#,
    ] {
        client.line(line)?;
        client.receive()?.expect_error("request_error")?;
    }
    client.ping()
}

fn spaces(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for line in [
        " \t{ \"action\" :\t\"ping\" } \r",
        r#"{"\u0061ction":"p\u0069ng"}"#,
    ] {
        client.line(line)?;
        client.receive()?.expect("pong")?;
    }

    client.line(r#"{"timeout":60,"code":"echo fields","language":"raw","action":"exec"}"#)?;
    let outcome = succeed(client.collect(None)?)?;
    ensure!(
        outcome.out() == "fields\n",
        "fields in another order: {}",
        outcome.show()
    );
    Ok(())
}

fn ping(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for _ in 0..3 {
        client.ping()?;
    }
    Ok(())
}

fn one_complete(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for code in ["echo out; echo err >&2", "", "exit 3"] {
        client.send(&shell(code))?;
        let outcome = client.collect(None)?;
        ensure!(
            outcome.end.kind() == "complete",
            "no `complete`: {}",
            outcome.show()
        );
        ensure!(
            outcome.others.is_empty(),
            "other responses before `complete`: {}",
            outcome.others[0].show()
        );

        // Nothing follows: the next response is that of the next request.
        client.ping()?;
    }
    Ok(())
}

fn languages(lab: &Lab<'_>) -> Check {
    let outcome = lab.python("import sys; print(sys.version_info[0])")?;
    ensure!(outcome.out() == "3\n", "python: {}", outcome.show());
    let outcome = lab.shell("x=shell; echo $x")?;
    ensure!(outcome.out() == "shell\n", "raw: {}", outcome.show());

    let mut client = lab.seed()?;
    client
        .ask(&crate::lab::exec("cobol", ""))?
        .expect_error("request_error")?;
    client
        .ask(&crate::lab::exec("Python", ""))?
        .expect_error("request_error")
        .map(drop)
}

fn language_aliases(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for (language, code) in [
        ("shell", "exit 4"),
        ("bash", "exit 4"),
        ("sh", "exit 4"),
        ("py", "exit(4)"),
    ] {
        ends_with(client.run(&crate::lab::exec(language, code))?, 4)?;
    }

    // Without bun, they are known all the same.
    for language in ["javascript", "js", "typescript", "ts"] {
        let outcome = client.run(&crate::lab::exec(language, "process.exit(4)"))?;
        let is_missing = outcome.end.text("error_type") == "agent_error";
        ensure!(
            is_missing || outcome.exit_code() == Some(4),
            "{language}: {}",
            outcome.show()
        );
    }
    Ok(())
}

fn silent_requests(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["credit", "cancel", "processes"])?;
    let spawn = json!({"action": "spawn", "argv": ["sh", "-c", "trap '' USR1; sleep 60"],
        "pty": {"rows": 10, "cols": 10}, "op_id": 1, "credit": 1000});
    client.ask(&spawn)?.expect("started")?;

    client.send(&json!({"action": "resize", "op_id": 1, "rows": 20, "cols": 20}))?;
    client.send(&json!({"action": "credit", "op_id": 1, "bytes": 20}))?;
    for request in [
        json!({"action": "cancel", "op_id": 77}),
        json!({"action": "credit", "op_id": 77, "bytes": 1}),
        json!({"action": "signal", "op_id": 77, "signal": "INT"}),
    ] {
        client.send(&request)?;
    }
    client.ping()?;

    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    let outcome = client.collect(Some(1))?;
    ensure!(
        outcome.end.kind() == "complete",
        "after `cancel`: {}",
        outcome.show()
    );
    client.ping()
}

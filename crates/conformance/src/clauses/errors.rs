//! How invalid input ends, and that the agent survives it.

use serde_json::{Value, json};

use super::lab::{Clause, Lab, exec, python, shell, succeed, with};
use crate::client::{Check, Connection, ensure, fail};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "ERR-1",
        0,
        "a line that is no JSON object, or has an unknown action, is a `request_error`",
        no_request,
    ),
    Clause::new(
        "ERR-2",
        0,
        "a missing or mistyped field, or a value out of range, is a `request_error` that names it",
        bad_fields,
    ),
    Clause::new(
        "ERR-3",
        0,
        "a line that is not UTF-8 is a `protocol_error`",
        invalid_utf8,
    ),
    Clause::new(
        "ERR-4",
        0,
        "code with a NUL character is a `code_error`",
        code_with_nul,
    ),
    Clause::new(
        "ERR-5",
        0,
        "a variable with a control character or a malformed name is an `env_var_error`",
        control_characters,
    ),
    Clause::new(
        "ERR-6",
        0,
        "a blocked variable is an `env_var_error`",
        blocked_variables,
    ),
    Clause::new(
        "ERR-7",
        0,
        "a package that is not name and version is a `package_error`",
        bad_packages,
    ),
    Clause::new(
        "ERR-8",
        0,
        "packages for the shell are a `package_error`",
        shell_packages,
    ),
    Clause::new(
        "ERR-9",
        1,
        "a program or working directory that does not exist is a `path_error`",
        missing_paths,
    ),
    Clause::new(
        "ERR-10",
        1,
        "an `error` carries the `op_id` of its request",
        error_with_op_id,
    ),
    Clause::new(
        "ERR-11",
        1,
        "an `error` that answers a control request has no `op_id`",
        control_errors,
    ),
    Clause::new(
        "ERR-12",
        0,
        "after each error the connection continues",
        connection_continues,
    ),
    Clause::new(
        "ERR-13",
        0,
        "hostile lines neither crash nor stall the agent",
        hostile_lines,
    ),
    Clause::new(
        "ERR-14",
        0,
        "a tab or newline in the value of a variable is allowed",
        allowed_characters,
    ),
];

/// Sends each line, and fails unless it is rejected with this type and a message with this part.
fn rejects(client: &mut Connection, error_type: &str, lines: &[(&str, &str)]) -> Check {
    for (line, part) in lines {
        client.line(line)?;
        let error = client.receive()?.expect_error(error_type)?;
        ensure!(
            error.text("message").contains(part),
            "the message does not name {part}: {}",
            error.show()
        );
    }
    Ok(())
}

fn no_request(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let lines = [
        "",
        "hello",
        "[]",
        "1",
        "null",
        "\"ping\"",
        "[\"ping\"]",
        "{",
        "{}{}",
        "{\"action\":5}",
        "{\"action\":null}",
        "{\"action\":\"dance\"}",
        "{\"action\":\"\"}",
        "{\"action\":\"PING\"}",
        "{\"action\":\"ping\"} {\"action\":\"ping\"}",
        "{\"action\":\"ping\",}",
        "{'action':'ping'}",
        "{\"action\":\"ping\"}x",
        "{\"action\":\"\\ud800\"}",
    ];
    rejects(&mut client, "request_error", &lines.map(|line| (line, "")))?;
    client.ping()
}

fn bad_fields(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let fields = [
        ("code", json!(null)),
        ("code", json!(7)),
        ("code", json!(["a"])),
        ("language", json!(1)),
        ("language", json!("")),
        ("timeout", json!("1")),
        ("timeout", json!(1.5)),
        ("timeout", json!(true)),
        ("timeout", json!(-1)),
        ("timeout", json!(1e300)),
        ("timeout", json!(u64::MAX)),
        ("env_vars", json!([])),
        ("env_vars", json!("A=b")),
        ("env_vars", json!({"A": 1})),
        ("env_vars", json!({"A": null})),
    ];
    for (name, value) in fields {
        let request = with(shell("echo ran"), &json!({ name: value }));
        let error = client.ask(&request)?.expect_error("request_error")?;
        ensure!(
            error.text("message").contains(name),
            "{request}: the message does not name `{name}`: {}",
            error.show()
        );
    }

    for (request, name) in [
        (json!({"action": "exec", "language": "raw"}), "code"),
        (json!({"action": "exec", "code": ""}), "language"),
        (
            json!({"action": "install_packages", "language": "python"}),
            "packages",
        ),
        (
            json!({"action": "install_packages", "language": "python", "packages": "a==1"}),
            "packages",
        ),
        (
            json!({"action": "install_packages", "language": "python", "packages": [1]}),
            "packages",
        ),
    ] {
        let error = client.ask(&request)?.expect_error("request_error")?;
        ensure!(
            error.text("message").contains(name),
            "{request}: the message does not name `{name}`: {}",
            error.show()
        );
    }
    client.ping()
}

fn invalid_utf8(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let lines: [&[u8]; 5] = [
        b"{\"action\":\"\xff\"}",
        b"\xc3\x28",
        b"{\"action\":\"exec\",\"language\":\"raw\",\"code\":\"echo \xed\xa0\x80\"}",
        b"{\"action\":\"exec\",\"language\":\"raw\",\"code\":\"echo \xc0\xaf\"}",
        b"{\"action\":\"ping\"}\xe2\x82",
    ];
    for line in lines {
        client.line(line)?;
        client.receive()?.expect_error("protocol_error")?;
    }
    client.ping()
}

fn code_with_nul(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for request in [shell("echo a\0b"), python("\0")] {
        client.ask(&request)?.expect_error("code_error")?;
    }
    client.ping()
}

fn variable(name: &str, value: &str) -> Value {
    with(shell("true"), &json!({"env_vars": { name: value }}))
}

fn control_characters(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for (name, value) in [
        ("A", "\u{1b}[0m"),
        ("A", "\0"),
        ("A", "\r"),
        ("A", "\u{7f}"),
        ("A\t", ""),
        ("A\n", ""),
        ("A\0", ""),
        ("", ""),
        ("A=B", ""),
    ] {
        let response = client.run(&variable(name, value))?.end;
        if response.text("error_type") != "env_var_error" {
            fail!(
                "the variable {name:?} with the value {value:?} was not rejected: {}",
                response.show()
            );
        }
    }
    client.ping()
}

fn allowed_characters(lab: &Lab<'_>) -> Check {
    let request = with(
        shell("printf %s \"$A\""),
        &json!({"env_vars": {"A": "a\tb\nc ü\u{202e}"}}),
    );
    let outcome = succeed(lab.seed()?.run(&request)?)?;
    ensure!(
        outcome.out() == "a\tb\nc ü\u{202e}",
        "the value: {}",
        outcome.show()
    );
    Ok(())
}

/// The blocked names, and one for each blocked prefix.
const BLOCKED: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "BUN_OPTIONS",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "IFS",
    "LOCPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PATH",
    "PERL5LIB",
    "PERL5OPT",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHONBREAKPOINT",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "SHELLOPTS",
    "BASH_FUNC_x%%",
    "BUN_INSPECT_BRK",
    "FUMEHOOD_X",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_",
];

fn blocked_variables(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for name in BLOCKED {
        let response = client.run(&variable(name, ""))?.end;
        if response.text("error_type") != "env_var_error" {
            fail!("the variable {name} was not rejected: {}", response.show());
        }
    }
    client.ping()
}

fn install(language: &str, packages: &[&str]) -> Value {
    json!({"action": "install_packages", "language": language, "packages": packages, "timeout": 1})
}

fn bad_packages(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let python = [
        "a",
        "",
        " ",
        "../a==1",
        "a/b==1",
        "a\\b==1",
        "https://a==1",
        "--index=1",
        "-e==1",
        "a @ file",
        "a==1\n",
        "a==../1",
    ];
    let javascript = [
        "a",
        "@1",
        "../a@1",
        "a/b@1",
        "a@https://b",
        "a@file:b",
        "--registry@1",
        "a@../b",
    ];

    let languages = [("python", &python[..]), ("javascript", &javascript[..])];
    for (language, packages) in languages {
        for package in packages {
            let response = client.run(&install(language, &["ok==1", package]))?.end;
            if response.text("error_type") != "package_error" {
                fail!(
                    "the package {package:?} ({language}) was not rejected: {}",
                    response.show()
                );
            }
        }
    }
    client.ping()
}

fn shell_packages(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    client
        .ask(&install("raw", &["a==1"]))?
        .expect_error("package_error")?;
    client.ping()
}

fn missing_paths(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    for request in [
        json!({"action": "spawn", "argv": ["/no/such/program"]}),
        json!({"action": "spawn", "argv": ["true"], "cwd": "/no/such/directory"}),
        with(shell("true"), &json!({"cwd": "no/such/directory"})),
    ] {
        // A spawn may have started before its program could not be executed.
        client.run(&request)?.end.expect_error("path_error")?;
    }
    client.ping()
}

fn error_with_op_id(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    for request in [
        json!({"action": "exec", "op_id": 9, "language": "shell"}),
        json!({"action": "dance", "op_id": 9}),
        with(shell("\0"), &json!({"op_id": 9})),
        with(variable("PATH", ""), &json!({"op_id": 9})),
    ] {
        let error = client.ask(&request)?.expect("error")?;
        ensure!(
            error.op_id() == Some(9),
            "the error has no `op_id` 9: {}",
            error.show()
        );
    }

    // Without an `op_id` there is none in the error.
    let error = client.ask(&exec("cobol", ""))?.expect("error")?;
    ensure!(
        error.field("op_id").is_null(),
        "the error has an `op_id`: {}",
        error.show()
    );
    Ok(())
}

fn control_errors(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes", "cancel"])?;
    let spawn = json!({"action": "spawn", "argv": ["sleep", "60"], "op_id": 1});
    client.ask(&spawn)?.expect("started")?;

    for (request, error_type) in [
        (
            json!({"action": "signal", "op_id": 1, "signal": "NOISE"}),
            "request_error",
        ),
        (
            json!({"action": "stdin", "op_id": 1, "chunk": 5}),
            "request_error",
        ),
        (
            json!({"action": "resize", "op_id": 1, "rows": 1}),
            "request_error",
        ),
        (
            json!({"action": "credit", "op_id": 1, "bytes": -1}),
            "request_error",
        ),
        (json!({"action": "detach", "op_id": 1}), "request_error"),
        (
            json!({"action": "cancel", "op_id": 1, "x": 1}),
            "request_error",
        ),
    ] {
        let error = client.ask(&request)?.expect_error(error_type)?;
        ensure!(
            error.field("op_id").is_null(),
            "the error of {request} has an `op_id`: {}",
            error.show()
        );
    }

    // The operation has not ended.
    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    let outcome = client.collect(Some(1))?;
    ensure!(
        outcome.ended_by() == "cancelled",
        "the operation ended before: {}",
        outcome.show()
    );
    Ok(())
}

fn connection_continues(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let requests = [
        json!({"action": "dance"}),
        shell("\0"),
        variable("PATH", "x"),
        install("python", &["a"]),
        exec("cobol", ""),
    ];
    for (number, request) in requests.iter().enumerate() {
        client.ask(request)?.expect("error")?;
        let outcome = succeed(client.run(&shell(&format!("echo {number}")))?)?;
        ensure!(
            outcome.out() == format!("{number}\n"),
            "after {request}: {}",
            outcome.show()
        );
    }
    Ok(())
}

fn hostile_lines(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let deep = |open: &str| format!(r#"{{"action":"ping","x":{}"#, open.repeat(100_000));
    let many = format!(
        r#"{{"action":"exec","language":"raw","code":"","env_vars":{{{}"#,
        r#""a":"","#.repeat(200_000)
    );
    let number = |digits: &str| {
        format!(r#"{{"action":"exec","language":"raw","code":"","timeout":{digits}}}"#)
    };
    let lines = [
        deep("["),
        deep(r#"{"x":"#),
        many,
        number(&"9".repeat(100_000)),
        number("1e999999999"),
        number("-0.0000000000000000000000000001"),
        format!(r#"{{"action":"{}"}}"#, "x".repeat(1_000_000)),
        format!(r#"{{"{}":1}}"#, "\\u0000".repeat(10_000)),
        "\0".repeat(10_000),
        "\u{feff}{\"action\":\"ping\"}".to_owned(),
    ];
    for line in lines {
        client.line(&line)?;
        client.receive()?.expect_error("request_error")?;
    }

    // Random bytes, the same in every run: as many errors as lines.
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    });
    let noise: Vec<u8> = noise.take(50_000).collect();
    let lines = noise.iter().filter(|byte| **byte == b'\n').count() + 1;
    client.line(&noise)?;
    for _ in 0..lines {
        client.receive()?.expect("error")?;
    }

    let outcome = succeed(client.run(&shell("echo alive"))?)?;
    ensure!(outcome.out() == "alive\n", "afterwards: {}", outcome.show());
    Ok(())
}

//! The limits, at their values and one past them.

use serde_json::{Value, json};

use super::lab::{Clause, Lab, ends_with, python, shell, succeed, with};
use crate::client::{Check, Connection, Message, ensure, fail, not_offered};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "LIMIT-2",
        0,
        "`code_bytes`: 2,097,152 bytes of code",
        code_bytes,
    ),
    Clause::new(
        "LIMIT-3",
        0,
        "`timeout_s`: 0 to 300 seconds, 1 to 300 for packages",
        timeout_s,
    ),
    Clause::new(
        "LIMIT-4",
        0,
        "`default_exec_timeout_s`: an exec without a timeout ends after 5 seconds",
        default_timeout,
    ),
    Clause::new("LIMIT-6", 0, "`env_vars`: 100 variables", env_vars),
    Clause::new("LIMIT-7", 0, "`env_name_bytes`: 256 bytes", env_name_bytes),
    Clause::new(
        "LIMIT-8",
        0,
        "`env_value_bytes`: 4,096 bytes",
        env_value_bytes,
    ),
    Clause::new("LIMIT-9", 0, "`packages`: 1 to 50", packages),
    Clause::new(
        "LIMIT-10",
        0,
        "`package_bytes`: a name of 214 bytes",
        package_bytes,
    ),
    Clause::new(
        "LIMIT-11",
        0,
        "`package_spec_bytes`: 512 bytes",
        package_spec_bytes,
    ),
    Clause::alone(
        "LIMIT-12",
        1,
        "`operations`: 64 at the same time",
        operations,
    ),
    Clause::new(
        "LIMIT-13",
        1,
        "`input_bytes`: 262,144 bytes ahead",
        input_bytes,
    ),
    Clause::new("LIMIT-14", 1, "`args`: 1,024 arguments", args),
    Clause::new("LIMIT-15", 1, "`argv_bytes`: 131,072 bytes", argv_bytes),
    Clause::new("LIMIT-16", 1, "`tag_bytes`: 128 bytes", tag_bytes),
    Clause::alone(
        "LIMIT-17",
        1,
        "`detached`: 32 operations with a key",
        detached,
    ),
    Clause::new("LIMIT-18", 1, "`key_bytes`: 1 to 128 bytes", key_bytes),
    Clause::new("LIMIT-22", 1, "`path_bytes`: 1 to 4,095 bytes", path_bytes),
    Clause::new("LIMIT-23", 1, "`file_bytes`: 1 GiB", file_bytes),
    Clause::alone("LIMIT-24", 1, "`contexts`: 16", contexts),
    Clause::new(
        "LIMIT-25",
        1,
        "`context_name_bytes`: 1 to 64 bytes",
        context_name_bytes,
    ),
    Clause::new(
        "LIMIT-26",
        1,
        "`token_bytes`: a nonce of 1,024 bytes",
        token_bytes,
    ),
    Clause::observed(
        "LIMIT-27",
        0,
        "`chunk_bytes`: 65,536 bytes of output in one response",
    ),
];

/// Sends a request, and returns the last response of its operation.
fn end(client: &mut Connection, request: &Value) -> Check<Message> {
    Ok(client.run(request)?.end)
}

/// Fails unless a request at the limit is accepted, and one past it rejected with this type.
fn at_and_past(client: &mut Connection, error_type: &str, at: &Value, past: &Value) -> Check {
    let accepted = end(client, at)?;
    if accepted.kind() == "error" && accepted.text("error_type") != "agent_error" {
        fail!("the value of the limit was rejected: {}", accepted.show());
    }

    let rejected = end(client, past)?;
    if rejected.text("error_type") != error_type {
        fail!(
            "one past the limit was not a `{error_type}`: {}",
            rejected.show()
        );
    }
    client.ping()
}

fn code_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let padded = |code: &str, len: usize| code.to_owned() + &"\n".repeat(len - code.len());

    for (request, kind) in [
        (shell as fn(&str) -> Value, "echo done"),
        (python, "print('done')"),
    ] {
        let outcome = succeed(client.run(&request(&padded(kind, 2_097_152)))?)?;
        ensure!(
            outcome.out() == "done\n",
            "code at the limit: {}",
            outcome.show()
        );
        end(&mut client, &request(&padded(kind, 2_097_153)))?.expect_error("code_error")?;
    }

    // Bytes count, not characters.
    let comment = "é".repeat(1_048_576);
    end(&mut client, &shell(&format!("#{comment}")))?.expect_error("code_error")?;
    client.ping()
}

fn timeout_s(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let exec = |timeout: i64| with(shell("exit 3"), &json!({ "timeout": timeout }));
    for good in [0, 1, 300] {
        ends_with(client.run(&exec(good))?, 3)?;
    }
    for bad in [-1, 301] {
        end(&mut client, &exec(bad))?.expect_error("request_error")?;
    }

    let install = |timeout: i64| with(install(&["a==1".into()]), &json!({ "timeout": timeout }));
    for bad in [-1, 0, 301] {
        end(&mut client, &install(bad))?.expect_error("request_error")?;
    }
    client.ping()
}

fn default_timeout(lab: &Lab<'_>) -> Check {
    let request = json!({"action": "exec", "language": "raw", "code": "sleep 30"});
    let outcome = lab.seed()?.run(&request)?;
    let took = outcome.end.number("execution_time_ms").unwrap_or(-1);
    ensure!(
        (4_900..25_000).contains(&took),
        "it ended after {took} ms: {}",
        outcome.show()
    );
    Ok(())
}

fn variables(count: usize) -> Value {
    let variables = (0..count)
        .map(|number| (format!("VAR_{number}"), json!("x")))
        .collect();
    with(
        shell("env | grep -c ^VAR_"),
        &json!({"env_vars": Value::Object(variables)}),
    )
}

fn env_vars(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let outcome = client.run(&variables(100))?;
    ensure!(
        outcome.out() == "100\n",
        "100 variables: {}",
        outcome.show()
    );
    at_and_past(
        &mut client,
        "env_var_error",
        &variables(100),
        &variables(101),
    )
}

fn variable(name: &str, value: &str) -> Value {
    with(shell("true"), &json!({"env_vars": { name: value }}))
}

fn env_name_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    at_and_past(
        &mut client,
        "env_var_error",
        &variable(&"N".repeat(256), "x"),
        &variable(&"N".repeat(257), "x"),
    )
}

fn env_value_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let value = |len: usize| variable("N", &"v".repeat(len));
    at_and_past(&mut client, "env_var_error", &value(4096), &value(4097))?;

    // Bytes count, not characters.
    let characters = |count: usize| variable("N", &"é".repeat(count));
    at_and_past(
        &mut client,
        "env_var_error",
        &characters(2048),
        &characters(2049),
    )
}

fn install(packages: &[String]) -> Value {
    json!({"action": "install_packages", "language": "python", "packages": packages, "timeout": 30})
}

/// Packages past a limit are rejected; those at the limit are accepted, if packages may be installed.
fn packages_at_and_past(lab: &Lab<'_>, at: &[String], past: &[String]) -> Check {
    let mut client = lab.seed()?;
    end(&mut client, &install(past))?.expect_error("package_error")?;
    if !lab.agent.packages {
        return client.ping();
    }
    at_and_past(&mut client, "package_error", &install(at), &install(past))
}

fn packages(lab: &Lab<'_>) -> Check {
    let many = |count: usize| {
        (0..count)
            .map(|number| format!("p{number}==1"))
            .collect::<Vec<_>>()
    };
    end(&mut lab.seed()?, &install(&[]))?.expect_error("package_error")?;
    packages_at_and_past(lab, &many(50), &many(51))
}

fn package_bytes(lab: &Lab<'_>) -> Check {
    let named = |len: usize| ["n".repeat(len) + "==1"];
    packages_at_and_past(lab, &named(214), &named(215))
}

fn package_spec_bytes(lab: &Lab<'_>) -> Check {
    let long = |len: usize| ["a==".to_owned() + &"1".repeat(len - 3)];
    packages_at_and_past(lab, &long(512), &long(513))
}

fn operations(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes", "cancel"])?;
    let spawn = |id: i64| json!({"action": "spawn", "argv": ["sleep", "60"], "op_id": id});
    for id in 0..64 {
        client.ask(&spawn(id))?.expect("started")?;
    }
    let error = client.ask(&spawn(64))?.expect_error("busy_error")?;
    ensure!(
        error.op_id() == Some(64),
        "the error belongs to another operation: {}",
        error.show()
    );

    client.send(&json!({"action": "cancel", "op_id": 7}))?;
    client.collect(Some(7))?.end.expect("complete")?;
    client.ask(&spawn(64))?.expect("started").map(drop)
}

fn input_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes", "cancel"])?;
    // The program reads nothing, so that no credit arrives.
    let spawn =
        |id: i64| json!({"action": "spawn", "argv": ["sleep", "60"], "stdin": true, "op_id": id});
    let input =
        |id: i64, bytes: usize| json!({"action": "stdin", "op_id": id, "chunk": "x".repeat(bytes)});

    client.ask(&spawn(1))?.expect("started")?;
    client.send(&input(1, 262_144))?;
    client.ping_with_credit()?;

    client.ask(&spawn(2))?.expect("started")?;
    client.send(&input(2, 262_145))?;
    client.receive()?.expect_error("protocol_error")?;

    // The programs continue.
    for id in [1, 2] {
        client.send(&json!({"action": "cancel", "op_id": id}))?;
        let outcome = client.collect(Some(id))?;
        ensure!(
            outcome.ended_by() == "cancelled",
            "the operation ended before: {}",
            outcome.show()
        );
    }
    Ok(())
}

fn args(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let exec = |count: usize| with(shell("true"), &json!({"args": vec![""; count]}));
    at_and_past(&mut client, "request_error", &exec(1024), &exec(1025))
}

fn argv_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let exec = |bytes: usize| with(shell("true"), &json!({"args": ["x".repeat(bytes - 1)]}));
    at_and_past(&mut client, "request_error", &exec(131_072), &exec(131_073))?;

    // Each argument has its NUL.
    let spawn = |bytes: usize| json!({"action": "spawn", "argv": ["true", "x".repeat(bytes - 6)]});
    at_and_past(
        &mut client,
        "request_error",
        &spawn(131_072),
        &spawn(131_073),
    )
}

fn tag_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let spawn =
        |bytes: usize| json!({"action": "spawn", "argv": ["true"], "tag": "t".repeat(bytes)});
    at_and_past(&mut client, "request_error", &spawn(128), &spawn(129))
}

fn detached(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes", "cancel"])?;
    let spawn = |id: i64| {
        let key = format!("{}-{id}", lab.tag);
        json!({"action": "spawn", "argv": ["sleep", "60"], "op_id": id, "idempotency_key": key})
    };

    let mut rejected = None;
    for id in 0..33 {
        let message = client.ask(&spawn(id))?;
        if message.kind() == "error" {
            rejected = Some((id, message.expect_error("busy_error")?));
            break;
        }
        message.expect("started")?;
    }

    let started = rejected.as_ref().map_or(33, |(id, _)| *id);
    for id in 0..started {
        client.send(&json!({"action": "cancel", "op_id": id}))?;
        client.collect(Some(id))?.end.expect("complete")?;
    }
    ensure!(
        started == 32,
        "{started} operations with a key were accepted"
    );
    Ok(())
}

fn key_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let exec = |bytes: usize| {
        with(
            shell("true"),
            &json!({"op_id": 1, "idempotency_key": format!("{:x<bytes$}", lab.tag)}),
        )
    };
    at_and_past(&mut client, "request_error", &exec(128), &exec(129))?;
    end(
        &mut client,
        &with(shell("true"), &json!({"op_id": 1, "idempotency_key": ""})),
    )?
    .expect_error("request_error")
    .map(drop)
}

fn path_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["files"])?;
    let stat = |path: String| json!({"action": "stat", "path": path});

    // The kernel's answer, and not that of the limit: there is no such file.
    let at = client
        .ask(&stat("/".repeat(4093) + "no"))?
        .expect_error("path_error")?;
    ensure!(
        at.number("errno") == Some(2),
        "a path at the limit: {}",
        at.show()
    );
    let past = client
        .ask(&stat("/".repeat(4094) + "no"))?
        .expect_error("path_error")?;
    ensure!(
        past.number("errno") != Some(2),
        "a path past the limit reached the kernel: {}",
        past.show()
    );
    client
        .ask(&stat(String::new()))?
        .expect_error("path_error")
        .map(drop)
}

fn file_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["files", "cancel"])?;
    let write = |size: u64| json!({"action": "write_file", "path": format!("/tmp/{}", lab.tag), "op_id": 1, "size": size});

    // The disk may be smaller; that is not the limit's answer.
    client.send(&write(1 << 30))?;
    if let Some(answer) = client.receive_within(std::time::Duration::from_millis(300))? {
        let is_limit = answer.text("message").contains("file_bytes");
        ensure!(
            answer.text("error_type") == "path_error" && !is_limit,
            "a file at the limit: {}",
            answer.show()
        );
    } else {
        client.send(&json!({"action": "cancel", "op_id": 1}))?;
        client.collect(Some(1))?;
    }
    client
        .ask(&write((1 << 30) + 1))?
        .expect_error("path_error")
        .map(drop)
}

fn contexts(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["contexts"])?;
    let name = |number: usize| format!("{}-{number}", lab.tag);
    let exec = |number: usize| with(shell("true"), &json!({"context": name(number), "op_id": 1}));

    let mut opened = 0;
    let mut rejected = None;
    while opened < 17 && rejected.is_none() {
        let outcome = client.run(&exec(opened))?;
        match outcome.end.kind() {
            "error" => rejected = Some(outcome.end.expect_error("request_error")?),
            _ => opened += 1,
        }
    }
    for number in 0..opened {
        client
            .ask(&json!({"action": "close_context", "context": name(number)}))?
            .expect("done")?;
    }

    if opened < 16 && rejected.is_some() {
        not_offered!("the agent holds contexts of others; {opened} more were accepted");
    }
    ensure!(opened == 16, "{opened} contexts were accepted");
    Ok(())
}

fn context_name_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["contexts"])?;
    let name = |bytes: usize| format!("{:x<bytes$}", lab.tag);
    let exec = |name: &str| with(shell("true"), &json!({ "context": name }));
    at_and_past(
        &mut client,
        "request_error",
        &exec(&name(64)),
        &exec(&name(65)),
    )?;
    client
        .ask(&json!({"action": "close_context", "context": name(64)}))?
        .expect("done")?;

    for bad in ["", " "] {
        end(&mut client, &exec(bad))?.expect_error("request_error")?;
    }
    Ok(())
}

fn token_bytes(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let mut hello = json!({"action": "hello", "protocol": 1, "nonce": "n".repeat(1024)});
    if let Some(token) = &lab.agent.token {
        hello["token"] = token.as_str().into();
    }
    let reply = client.ask(&hello)?.expect("hello")?;
    ensure!(
        reply.text("nonce").len() == 1024,
        "the nonce was not echoed: {}",
        reply.show()
    );

    hello["nonce"] = "n".repeat(1025).into();
    client.ask(&hello)?.expect_error("request_error").map(drop)
}

//! `hello`: versions, tokens, nonces, features.

use serde_json::{Value, json};

use crate::client::{Check, Connection, Message, ensure, fail, not_offered};
use crate::lab::{Clause, FEATURES, Lab, python, shell, succeed, with};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "VER-1",
        1,
        "a connection speaks version 0 until a `hello` has been answered",
        starts_in_version_0,
    ),
    Clause::new(
        "VER-2",
        1,
        "the `protocol` of the answer is the lower one",
        lower_version,
    ),
    Clause::new(
        "VER-3",
        1,
        "a later `hello` ends the operations of the conversation",
        hello_ends_operations,
    ),
    Clause::new(
        "VER-4",
        1,
        "`hello` with `protocol` 0 leads back to version 0",
        back_to_version_0,
    ),
    Clause::new("VER-5", 1, "the answer echoes the nonce", nonce),
    Clause::new(
        "VER-6",
        1,
        "`hello` is read behind half a line and a running program",
        hello_behind_half_a_line,
    ),
    Clause::new(
        "VER-7",
        1,
        "the answer has only features that were requested and are known",
        known_features,
    ),
    Clause::new(
        "VER-8",
        1,
        "the features of the answer are in effect, and no others",
        features_in_effect,
    ),
    Clause::new("VER-9", 1, "the `boot_id` stays the same", boot_id),
    Clause::new(
        "TOKEN-1",
        0,
        "every request before the token is an `auth_error`",
        requests_before_token,
    ),
    Clause::new(
        "TOKEN-2",
        0,
        "a wrong token closes the connection",
        wrong_token,
    ),
];

/// A `hello`, with the token.
fn hello(lab: &Lab<'_>, fields: &Value) -> Value {
    let mut request = json!({"action": "hello"});
    if let Some(token) = &lab.agent.token {
        request["token"] = token.as_str().into();
    }
    with(request, fields)
}

fn say_hello(lab: &Lab<'_>, client: &mut Connection, fields: &Value) -> Check<Message> {
    client.ask(&hello(lab, fields))?.expect("hello")
}

const NOT_UTF8: &str = "import os; os.write(1, b'a\\xffb')";

fn starts_in_version_0(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let outcome = succeed(client.run(&python(NOT_UTF8))?)?;
    ensure!(
        outcome.out() == "a\u{fffd}b",
        "before `hello`: {}",
        outcome.show()
    );

    say_hello(lab, &mut client, &json!({"protocol": 1}))?;
    client.version = 1;
    let outcome = succeed(client.run(&python(NOT_UTF8))?)?;
    ensure!(
        outcome.stdout == b"a\xffb",
        "after `hello`: {}",
        outcome.show()
    );
    Ok(())
}

fn lower_version(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for (protocol, agreed) in [(0, 0), (1, 1)] {
        let reply = say_hello(lab, &mut client, &json!({ "protocol": protocol }))?;
        ensure!(
            reply.number("protocol") == Some(agreed),
            "of {protocol}: {}",
            reply.show()
        );
    }
    let reply = say_hello(lab, &mut client, &json!({"protocol": 4_000_000_000_u32}))?;
    let agreed = reply.number("protocol").unwrap_or(0);
    ensure!(
        (1..100).contains(&agreed),
        "of a high version: {}",
        reply.show()
    );

    client
        .ask(&hello(lab, &json!({"protocol": -1})))?
        .expect_error("request_error")?;
    client
        .ask(&hello(lab, &json!({})))?
        .expect_error("request_error")
        .map(drop)
}

fn hello_ends_operations(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    client
        .send(&json!({"action": "spawn", "argv": ["sleep", "60"], "op_id": 1, "tag": lab.tag}))?;
    client.receive()?.expect("started")?;
    client.send(&with(shell("echo begun; sleep 60"), &json!({"op_id": 2})))?;
    client.receive()?.expect("stdout")?;

    say_hello(
        lab,
        &mut client,
        &json!({"protocol": 1, "features": ["processes"]}),
    )?;
    for _ in 0..100 {
        let list = client
            .ask(&json!({"action": "list_processes"}))?
            .expect("processes")?;
        if !list.field("processes").to_string().contains(&lab.tag) {
            // Their identifiers are free, and nothing of them arrives any more.
            let outcome = succeed(client.run(&with(shell("echo again"), &json!({"op_id": 1})))?)?;
            ensure!(outcome.out() == "again\n", "afterwards: {}", outcome.show());
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    fail!("an operation of the old conversation still runs")
}

fn back_to_version_0(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let reply = say_hello(
        lab,
        &mut client,
        &json!({"protocol": 0, "features": ["raw_frames"]}),
    )?;
    client.version = 0;
    ensure!(
        reply
            .field("features")
            .as_array()
            .is_some_and(Vec::is_empty),
        "version 0 has features: {}",
        reply.show()
    );

    let outcome = succeed(client.run(&python(NOT_UTF8))?)?;
    ensure!(
        outcome.out() == "a\u{fffd}b",
        "after `hello` with 0: {}",
        outcome.show()
    );
    Ok(())
}

fn nonce(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for nonce in ["n", "", "0123456789abcdef", "ü\n\""] {
        let reply = say_hello(lab, &mut client, &json!({"protocol": 1, "nonce": nonce}))?;
        ensure!(
            *reply.field("nonce") == nonce,
            "the nonce {nonce:?} was not echoed: {}",
            reply.show()
        );
    }
    let reply = say_hello(lab, &mut client, &json!({"protocol": 1}))?;
    ensure!(
        reply.field("nonce").is_null(),
        "there was no nonce: {}",
        reply.show()
    );
    Ok(())
}

fn hello_behind_half_a_line(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    client.send(&shell("echo begun; sleep 60"))?;
    client.receive()?.expect("stdout")?;

    // A client does this on a line that may contain bytes of an earlier conversation.
    client.write(br#"{"action":"exec","language":"raw","code":"ech"#)?;
    client.line("")?;
    client.send(&hello(lab, &json!({"protocol": 1, "nonce": lab.tag})))?;
    for _ in 0..100 {
        let message = client.receive()?;
        if message.kind() == "hello" && message.text("nonce") == lab.tag {
            return client.ping();
        }
    }
    fail!("no `hello` with the nonce arrived")
}

fn known_features(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let features = |reply: &Message| -> Vec<String> {
        let list = reply.field("features").as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };

    let reply = say_hello(
        lab,
        &mut client,
        &json!({"protocol": 1, "features": ["credit", "teleport", ""]}),
    )?;
    let expected = if lab.offers("credit") {
        vec!["credit"]
    } else {
        Vec::new()
    };
    ensure!(features(&reply) == expected, "{}", reply.show());

    let reply = say_hello(lab, &mut client, &json!({"protocol": 1, "features": []}))?;
    ensure!(
        features(&reply).is_empty(),
        "nothing was requested: {}",
        reply.show()
    );

    let reply = say_hello(
        lab,
        &mut client,
        &json!({"protocol": 1, "features": FEATURES}),
    )?;
    let known = features(&reply)
        .iter()
        .all(|feature| FEATURES.contains(&feature.as_str()));
    ensure!(
        known,
        "a feature that the specification does not list: {}",
        reply.show()
    );
    Ok(())
}

fn features_in_effect(lab: &Lab<'_>) -> Check {
    lab.needs("raw_frames")?;
    let request = with(shell("echo x"), &json!({"op_id": 1}));

    for (features, kind) in [(&["raw_frames"][..], "data"), (&[], "stdout")] {
        let mut client = lab.hello(features)?;
        client.send(&request)?;
        client.receive()?.expect(kind)?;
    }
    Ok(())
}

fn boot_id(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let first = say_hello(lab, &mut client, &json!({"protocol": 1}))?;
    let second = say_hello(lab, &mut client, &json!({"protocol": 0}))?;
    drop(client);
    let third = say_hello(lab, &mut lab.seed()?, &json!({"protocol": 1}))?;

    let id = first.text("boot_id");
    ensure!(!id.is_empty(), "it is empty: {}", first.show());
    ensure!(
        second.text("boot_id") == id && third.text("boot_id") == id,
        "{id} became {} and {}",
        second.show(),
        third.show()
    );
    Ok(())
}

fn requests_before_token(lab: &Lab<'_>) -> Check {
    if lab.agent.token.is_none() {
        not_offered!("the agent requires no token (or none was given to this run)");
    }

    for request in [json!({"action": "ping"}), shell("echo no")] {
        let mut client = lab.link.open()?;
        client.ask(&request)?.expect_error("auth_error")?;
    }
    Ok(())
}

fn wrong_token(lab: &Lab<'_>) -> Check {
    let Some(token) = &lab.agent.token else {
        not_offered!("the agent requires no token (or none was given to this run)");
    };

    let shorter = &token[..token.len() - 1];
    for wrong in [
        json!(null),
        json!(""),
        json!(shorter),
        json!(format!("{token} ")),
    ] {
        let mut client = lab.link.open()?;
        client.send(&json!({"action": "hello", "protocol": 1, "token": wrong}))?;
        let error = client.receive()?;
        ensure!(
            error.kind() == "error",
            "the token {wrong} was accepted: {}",
            error.show()
        );
        if wrong.is_string() {
            error.expect_error("auth_error")?;
            client.expect_closed()?;
        }
    }
    Ok(())
}

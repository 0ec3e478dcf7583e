//! Concurrent operations, back-pressure and credit.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Check, Connection, Outcome, ensure, fail};
use crate::lab::{Clause, Lab, python, shell, succeed, with};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "OP-1",
        0,
        "requests without `op_id` are answered one after the other",
        synchronous,
    ),
    Clause::new(
        "OP-2",
        1,
        "a request with `op_id` runs beside others, and its responses carry it",
        beside_others,
    ),
    Clause::new(
        "OP-3",
        1,
        "an `op_id` is a number from 0 to 2^53 - 1",
        range_of_op_id,
    ),
    Clause::new(
        "OP-4",
        1,
        "an `op_id` is free when its operation has ended",
        free_op_id,
    ),
    Clause::new(
        "OP-5",
        1,
        "a live `op_id` used again is a `request_error`",
        live_op_id,
    ),
    Clause::new(
        "OP-6",
        1,
        "much output starves neither another operation nor a `ping`",
        no_starvation,
    ),
    Clause::new(
        "OP-7",
        0,
        "one connection does not hold up another",
        connections_are_independent,
    ),
    Clause::new(
        "FLOW-1",
        0,
        "a client that does not read slows the program down",
        back_pressure,
    ),
    Clause::new(
        "FLOW-2",
        1,
        "with `credit`, no more output than that arrives",
        credit,
    ),
    Clause::new(
        "FLOW-3",
        1,
        "an operation without credit does not hold up others",
        no_credit,
    ),
    Clause::new(
        "FLOW-5",
        1,
        "a second `cancel` drops output that waits for credit",
        second_cancel,
    ),
    Clause::new(
        "FLOW-4",
        1,
        "more input than the agent allows waits for `credit` responses",
        input_credit,
    ),
];

fn synchronous(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    client.send(&shell("sleep 2; echo one"))?;
    client.line(r#"{"action":"ping"}"#)?;
    client.line("rubbish")?;
    client.send(&shell("echo two"))?;

    let one = succeed(client.collect(None)?)?;
    ensure!(one.out() == "one\n", "the first answer: {}", one.show());
    client.receive()?.expect("pong")?;
    client.receive()?.expect_error("request_error")?;
    let two = succeed(client.collect(None)?)?;
    ensure!(two.out() == "two\n", "the last answer: {}", two.show());
    Ok(())
}

fn beside_others(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["cancel"])?;
    client.send(&with(shell("echo one; sleep 60"), &json!({"op_id": 1})))?;
    for id in 2..8 {
        client.send(&with(
            shell(&format!(
                "for n in 1 2 3; do echo {id}; sleep 0.02; done; exit {id}"
            )),
            &json!({"op_id": id}),
        ))?;
    }

    for id in 2..8 {
        let outcome = client.collect(Some(id))?;
        ensure!(
            outcome.exit_code() == Some(id),
            "operation {id}: {}",
            outcome.show()
        );
        ensure!(
            outcome.out() == format!("{id}\n").repeat(3),
            "operation {id}: {}",
            outcome.show()
        );
    }
    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    let outcome = client.collect(Some(1))?;
    ensure!(
        outcome.out() == "one\n" && outcome.ended_by() == "cancelled",
        "operation 1: {}",
        outcome.show()
    );
    Ok(())
}

fn range_of_op_id(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    for id in [0, (1_i64 << 53) - 1] {
        let pong = client
            .ask(&json!({"action": "ping", "op_id": id}))?
            .expect("pong")?;
        ensure!(
            pong.op_id() == Some(id),
            "the answer to {id}: {}",
            pong.show()
        );
    }
    for bad in [
        json!(-1),
        json!(1_i64 << 53),
        json!(1.0),
        json!("1"),
        json!(true),
    ] {
        client
            .ask(&json!({"action": "ping", "op_id": bad}))?
            .expect_error("request_error")?;
    }
    Ok(())
}

fn free_op_id(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    for _ in 0..3 {
        succeed(client.run(&with(shell("true"), &json!({"op_id": 1})))?)?;
        client
            .run(&with(crate::lab::exec("cobol", ""), &json!({"op_id": 1})))?
            .end
            .expect("error")?;
    }
    Ok(())
}

fn live_op_id(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["cancel"])?;
    client.send(&with(shell("echo begun; sleep 60"), &json!({"op_id": 1})))?;
    client.receive()?.expect("stdout")?;
    client.send(&with(shell("echo no"), &json!({"op_id": 1})))?;
    client.send(&with(crate::lab::exec("cobol", ""), &json!({"op_id": 1})))?;
    for _ in 0..2 {
        // An `op_id` would end the operation that is running.
        let error = client.receive()?.expect_error("request_error")?;
        ensure!(
            error.field("op_id").is_null(),
            "the error has an `op_id`: {}",
            error.show()
        );
    }

    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    let outcome = client.collect(Some(1))?;
    ensure!(
        outcome.ended_by() == "cancelled" && outcome.stdout.is_empty(),
        "the first operation: {}",
        outcome.show()
    );
    Ok(())
}

fn no_starvation(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["raw_frames", "cancel"])?;
    for id in [1, 2] {
        client.send(&with(shell("exec yes"), &json!({"op_id": id})))?;
    }
    // Both run.
    client.receive_for(Some(1))?;
    client.receive_for(Some(2))?;

    client.send(&with(shell("echo quick"), &json!({"op_id": 3})))?;
    client.send(&json!({"action": "ping", "op_id": 4}))?;
    let quick = collect_skipping(&mut client, 3)?;
    ensure!(
        quick.out() == "quick\n",
        "beside much output: {}",
        quick.show()
    );

    for id in [1, 2] {
        client.send(&json!({"action": "cancel", "op_id": id}))?;
    }
    Ok(())
}

/// Collects the responses of an operation, and a `pong`, and forgets those of others.
fn collect_skipping(client: &mut Connection, op_id: i64) -> Check<Outcome> {
    let mut outcome = Outcome::default();
    let mut has_pong = false;
    let begun = Instant::now();
    loop {
        let message = client.receive()?;
        has_pong |= message.kind() == "pong";
        if message.op_id() == Some(op_id) && outcome.add(message)? {
            break;
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(40),
            "it was not answered beside much output: {}",
            outcome.show()
        );
    }
    while !has_pong {
        has_pong = client.receive()?.kind() == "pong";
        ensure!(
            begun.elapsed() < Duration::from_secs(40),
            "a ping was not answered beside much output"
        );
    }
    Ok(outcome)
}

fn connections_are_independent(lab: &Lab<'_>) -> Check {
    lab.needs_several()?;
    let mut busy = lab.seed()?;
    busy.send(&shell("echo begun; sleep 20"))?;
    busy.receive()?.expect("stdout")?;

    let begun = Instant::now();
    let mut other = lab.second()?;
    let outcome = succeed(other.run(&shell("echo free"))?)?;
    ensure!(
        outcome.out() == "free\n",
        "on the other connection: {}",
        outcome.show()
    );
    ensure!(
        begun.elapsed() < Duration::from_secs(15),
        "the other connection waited for {:?}",
        begun.elapsed()
    );

    drop(busy);
    other.ping()
}

/// How many times in a row a program must have written nothing new to count as stopped.
const STOPPED: usize = 4;

fn back_pressure(lab: &Lab<'_>) -> Check {
    lab.needs_several()?;
    let file = format!("/tmp/{}", lab.tag);
    let mut slow = lab.seed()?;
    // More than any buffer on the way holds. The file gets a byte for each of 240 pieces.
    let code = format!(
        "import os
done = os.open('{file}', os.O_WRONLY | os.O_CREAT, 0o600)
piece = b'x' * 100000
for _ in range(240):
    left = memoryview(piece)
    while left: left = left[os.write(1, left):]
    os.write(done, b'.')"
    );
    slow.send(&python(&code))?;
    slow.receive()?.expect("stdout")?;

    let mut other = lab.second()?;
    let (mut before, mut same) = (None, 0);
    while same < STOPPED {
        let outcome = succeed(other.run(&shell(&format!("sleep 0.5; wc -c < {file}")))?)?;
        let written = outcome.out().trim().to_owned();
        ensure!(
            written != "240",
            "the program wrote 24 MB that nobody read: {}",
            outcome.show()
        );
        same = if before.as_ref() == Some(&written) {
            same + 1
        } else {
            0
        };
        before = Some(written);
    }
    drop(slow);
    other.ping()
}

fn credit(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["credit"])?;
    let code = "head -c 200000 /dev/zero | tr '\\0' x; head -c 10 /dev/zero >&2";
    client.send(&with(shell(code), &json!({"op_id": 1, "credit": 1000})))?;

    let mut outcome = Outcome::default();
    for (more, until) in [(0, 1000), (1, 1001), (98_999, 100_000)] {
        if more > 0 {
            client.send(&json!({"action": "credit", "op_id": 1, "bytes": more}))?;
        }
        take(&mut client, &mut outcome, until)?;
        // Nothing else is on the way.
        client.ping()?;
    }

    client.send(&json!({"action": "credit", "op_id": 1, "bytes": 1_000_000}))?;
    client.collect_into(&mut outcome, Some(1))?;
    ensure!(
        outcome.stdout.len() == 200_000 && outcome.stderr.len() == 10,
        "all output: {}",
        outcome.show()
    );
    Ok(())
}

/// Receives output until there are this many bytes.
fn take(client: &mut Connection, outcome: &mut Outcome, until: usize) -> Check {
    while outcome.stdout.len() + outcome.stderr.len() < until {
        let message = client.receive_for(Some(1))?;
        if outcome.add(message)? {
            fail!("the operation ended: {}", outcome.show());
        }
    }
    let bytes = outcome.stdout.len() + outcome.stderr.len();
    ensure!(
        bytes == until,
        "{bytes} bytes arrived with a credit of {until}"
    );
    Ok(())
}

fn no_credit(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["credit", "cancel"])?;
    client.send(&with(shell("exec yes"), &json!({"op_id": 1, "credit": 0})))?;
    let outcome = succeed(client.run(&with(shell("echo other"), &json!({"op_id": 2})))?)?;
    ensure!(
        outcome.out() == "other\n",
        "the other operation: {}",
        outcome.show()
    );

    end_without_credit(&mut client)
}

/// A second `cancel` drops the output that waits for credit.
fn end_without_credit(client: &mut Connection) -> Check {
    for _ in 0..2 {
        client.send(&json!({"action": "cancel", "op_id": 1}))?;
    }
    let outcome = client.collect(Some(1))?;
    ensure!(
        outcome.end.kind() == "complete",
        "it did not end by `complete`: {}",
        outcome.show()
    );
    ensure!(
        outcome.stdout.is_empty(),
        "output without credit: {}",
        outcome.show()
    );
    Ok(())
}

fn second_cancel(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["credit", "cancel"])?;
    // The program is being stopped when it is cancelled again; or it has ended before the first time.
    for code in ["exec yes", "echo output"] {
        client.send(&with(shell(code), &json!({"op_id": 1, "credit": 0})))?;
        end_without_credit(&mut client)?;
    }
    Ok(())
}

fn input_credit(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let code = "import sys; print(len(sys.stdin.buffer.read()))";
    client.send(&with(python(code), &json!({"op_id": 1, "stdin": true})))?;

    let (mut allowed, mut sent) = (262_144, 0);
    while sent < 1_000_000 {
        while allowed < 50_000 {
            let message = client.receive()?.expect("credit")?;
            allowed += message.number("bytes").unwrap_or(0);
        }
        let eof = sent + 50_000 >= 1_000_000;
        client.send(
            &json!({"action": "stdin", "op_id": 1, "chunk": "x".repeat(50_000), "eof": eof}),
        )?;
        allowed -= 50_000;
        sent += 50_000;
    }

    let outcome = succeed(client.collect(Some(1))?)?;
    ensure!(
        outcome.out() == "1000000\n",
        "the program read: {}",
        outcome.show()
    );
    Ok(())
}

//! Exactly once: keys, `attach`, `detach`, connections that break.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Check, Connection, Outcome, ensure, fail};
use crate::lab::{Clause, Lab, ends_with, ends_with_error, shell, succeed, with};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "ONCE-1",
        1,
        "an exec with a key outlives its connection",
        outlives,
    ),
    Clause::new(
        "ONCE-2",
        1,
        "the same request with the same key never runs again",
        never_again,
    ),
    Clause::new(
        "ONCE-3",
        1,
        "another request with a used key is a `request_error`",
        another_request,
    ),
    Clause::new(
        "ONCE-4",
        1,
        "a spawn that could not be started leaves its key free",
        free_key,
    ),
    Clause::new(
        "ONCE-5",
        1,
        "output is sent again from `from_seq` on",
        replay,
    ),
    Clause::new(
        "ONCE-6",
        1,
        "without a client, the output does not wait, and the oldest is dropped",
        dropped_output,
    ),
    Clause::new(
        "ONCE-7",
        1,
        "a client that attaches takes over; the previous one gets `detached`",
        takeover,
    ),
    Clause::new(
        "ONCE-8",
        1,
        "`detach` leaves the operation without a client",
        detach,
    ),
    Clause::new(
        "ONCE-9",
        1,
        "`attach` with an unknown key and `detach` without a key are a `request_error`",
        unknown_key,
    ),
    Clause::new(
        "ONCE-10",
        1,
        "a request that was cut anywhere and is sent again runs once",
        cut_anywhere,
    ),
    Clause::new(
        "ONCE-12",
        1,
        "a client that attaches gives a `credit` of at least 65,540",
        least_credit,
    ),
    Clause::new(
        "ONCE-11",
        1,
        "an exec that waited for its context when its client left has not run",
        waiting_exec,
    ),
];

/// A shell exec with a key that appends a line to a file, then runs more code.
fn counted(lab: &Lab<'_>, key: &str, code: &str) -> Value {
    let file = format!("/tmp/{}", lab.tag);
    let code = format!("echo run >> {file}; {code}");
    with(
        shell(&code),
        &json!({"op_id": 1, "idempotency_key": format!("{}-{key}", lab.tag)}),
    )
}

/// How often such execs ran.
fn runs(lab: &Lab<'_>, client: &mut Connection) -> Check<usize> {
    let code = format!("cat /tmp/{} 2>/dev/null; true", lab.tag);
    let outcome = succeed(client.run(&with(shell(&code), &json!({"op_id": 900})))?)?;
    Ok(outcome.out().lines().count())
}

/// Sends a request again and follows its operation to its end: `attached` first, if it was already started.
fn again(client: &mut Connection, request: &Value) -> Check<Outcome> {
    client.send(request)?;
    let mut outcome = Outcome::default();
    client.collect_into(&mut outcome, Some(1))?;
    Ok(outcome)
}

fn is_attached(outcome: &Outcome) -> bool {
    outcome
        .others
        .first()
        .is_some_and(|message| message.kind() == "attached")
}

fn outlives(lab: &Lab<'_>) -> Check {
    let request = counted(lab, "k", "echo begun; sleep 0.5; echo end; exit 5");
    let mut client = lab.hello(&[])?;
    client.send(&request)?;
    client.receive()?.expect("stdout")?;
    drop(client);

    let mut client = lab.hello(&[])?;
    let outcome = ends_with(again(&mut client, &request)?, 5)?;
    ensure!(
        is_attached(&outcome) && outcome.out() == "begun\nend\n",
        "{}",
        outcome.show()
    );
    ensure!(
        runs(lab, &mut client)? == 1,
        "it ran {} times",
        runs(lab, &mut client)?
    );
    Ok(())
}

fn never_again(lab: &Lab<'_>) -> Check {
    let request = counted(lab, "k", "echo out; echo err >&2; exit 5");
    let mut client = lab.hello(&[])?;
    let first = ends_with(client.run(&request)?, 5)?;
    ensure!(
        !is_attached(&first),
        "a new key was attached: {}",
        first.show()
    );

    for _ in 0..3 {
        let outcome = ends_with(again(&mut client, &request)?, 5)?;
        ensure!(
            is_attached(&outcome),
            "the record of its end begins with `attached`: {}",
            outcome.show()
        );
        ensure!(
            outcome.out() == "out\n" && outcome.err() == "err\n",
            "the record: {}",
            outcome.show()
        );
        ensure!(
            outcome.end == first.end,
            "the record differs from the end: {} {}",
            first.show(),
            outcome.show()
        );
    }
    let runs = runs(lab, &mut client)?;
    ensure!(runs == 1, "it ran {runs} times");
    Ok(())
}

fn another_request(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let request = counted(lab, "k", "true");
    succeed(client.run(&request)?)?;
    for change in [
        json!({"code": "true"}),
        json!({"timeout": 59}),
        json!({"env_vars": {"A": "b"}}),
        json!({"language": "python"}),
    ] {
        ends_with_error(
            client.run(&with(request.clone(), &change))?,
            "request_error",
        )?;
    }

    // How to follow it is not part of the request.
    succeed(again(
        &mut client,
        &with(request, &json!({"credit": 100_000})),
    )?)
    .map(drop)
}

fn least_credit(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&["credit"])?;
    let request = counted(lab, "k", "true");
    succeed(client.run(&request)?)?;
    ends_with_error(
        client.run(&with(request.clone(), &json!({"credit": 65_539})))?,
        "request_error",
    )?;
    succeed(again(
        &mut client,
        &with(request, &json!({"credit": 65_540})),
    )?)
    .map(drop)
}

fn free_key(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let spawn = |program: &str| json!({"action": "spawn", "argv": [program], "op_id": 1, "idempotency_key": lab.tag});
    ends_with_error(client.run(&spawn("/no/such/program"))?, "path_error")?;
    succeed(client.run(&spawn("true"))?).map(drop)
}

fn replay(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let request = counted(lab, "k", "for n in 0 1 2 3; do echo $n; sleep 0.15; done");
    let whole = succeed(client.run(&request)?)?;
    ensure!(whole.out() == "0\n1\n2\n3\n", "{}", whole.show());

    for from in 0..=whole.pieces.len() {
        let attach = json!({"action": "attach", "idempotency_key": request["idempotency_key"], "from_seq": from, "op_id": 1});
        let attached = client.ask(&attach)?.expect("attached")?;
        ensure!(
            attached.number("seq") == i64::try_from(from).ok(),
            "from {from}: {}",
            attached.show()
        );

        let mut outcome = Outcome::default();
        client.collect_into(&mut outcome, Some(1))?;
        let skipped: usize = whole.pieces[..from].iter().map(|(_, bytes)| bytes).sum();
        ensure!(
            outcome.stdout == whole.stdout[skipped..],
            "from {from}: {}",
            outcome.show()
        );
    }
    Ok(())
}

fn dropped_output(lab: &Lab<'_>) -> Check {
    let request = counted(
        lab,
        "k",
        "echo begun; sleep 0.3; head -c 1000000 /dev/zero | tr '\\0' x; echo last",
    );
    let mut client = lab.hello(&[])?;
    client.send(&request)?;
    client.receive()?.expect("stdout")?;
    drop(client);

    let mut client = lab.hello(&[])?;
    for _ in 0..200 {
        let list = client.ask(&json!({"action": "list_processes"}))?;
        if list.kind() != "processes" || !list.field("processes").to_string().contains(&lab.tag) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }

    let attach =
        json!({"action": "attach", "idempotency_key": request["idempotency_key"], "op_id": 1});
    let attached = client.ask(&attach)?.expect("attached")?;
    let seq = attached.number("seq").unwrap_or(0);
    ensure!(
        seq > 0,
        "a megabyte without a client was kept: {}",
        attached.show()
    );

    let mut outcome = Outcome::default();
    client.collect_into(&mut outcome, Some(1))?;
    let outcome = succeed(outcome)?;
    let is_latest = outcome.out().ends_with("xlast\n") && outcome.stdout.len() <= 262_144;
    ensure!(
        is_latest && outcome.stdout.len() >= 131_072,
        "{} bytes: {}",
        outcome.stdout.len(),
        outcome.show()
    );
    Ok(())
}

fn takeover(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["cancel"])?;
    let request = counted(lab, "k", "echo begun; sleep 60");
    client.send(&request)?;
    client.receive()?.expect("stdout")?;

    // The client itself, under another number.
    let attach =
        json!({"action": "attach", "idempotency_key": request["idempotency_key"], "op_id": 2});
    client.send(&attach)?;
    client.receive_for(Some(1))?.expect("detached")?;
    client.receive_for(Some(2))?.expect("attached")?;
    client.receive_for(Some(2))?.expect("stdout")?;

    let mut last = 2;
    let mut owner = client;
    if lab.agent.serves_several {
        let mut other = lab.with(&["cancel"])?;
        other.send(&with(attach, &json!({"op_id": 3})))?;
        other.receive()?.expect("attached")?;
        owner.receive_for(Some(2))?.expect("detached")?;
        owner.ping()?;
        owner = other;
        last = 3;
    }
    owner.send(&json!({"action": "cancel", "op_id": last}))?;
    let outcome = owner.collect(Some(last))?;
    ensure!(outcome.ended_by() == "cancelled", "{}", outcome.show());
    Ok(())
}

fn detach(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let request = counted(lab, "k", "echo begun; sleep 0.5; echo end");
    client.send(&request)?;
    client.receive()?.expect("stdout")?;
    client.send(&json!({"action": "detach", "op_id": 1}))?;
    client.receive()?.expect("detached")?;

    // The number is free, and the operation continues.
    succeed(client.run(&with(shell("true"), &json!({"op_id": 1})))?)?;
    let outcome = succeed(again(&mut client, &request)?)?;
    ensure!(outcome.out() == "begun\nend\n", "{}", outcome.show());
    Ok(())
}

fn unknown_key(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["cancel"])?;
    let attach =
        json!({"action": "attach", "idempotency_key": format!("{}-unknown", lab.tag), "op_id": 1});
    client.ask(&attach)?.expect_error("request_error")?;

    client.send(&with(shell("echo begun; sleep 60"), &json!({"op_id": 1})))?;
    client.receive()?.expect("stdout")?;
    client
        .ask(&json!({"action": "detach", "op_id": 1}))?
        .expect_error("request_error")?;
    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    client.collect(Some(1)).map(drop)
}

fn cut_anywhere(lab: &Lab<'_>) -> Check {
    let mut expected = 0;
    for number in 0..6 {
        let request = counted(lab, &format!("k{number}"), "echo out");
        let line = request.to_string() + "\n";
        let cut = [
            1,
            line.len() / 3,
            line.len() / 2,
            line.len() - 2,
            line.len() - 1,
            line.len(),
        ][number];

        let mut client = lab.hello(&[])?;
        client.write(&line.as_bytes()[..cut])?;
        drop(client);

        let mut client = lab.hello(&[])?;
        let outcome = succeed(again(&mut client, &request)?)?;
        ensure!(
            outcome.out() == "out\n",
            "cut after {cut} bytes: {}",
            outcome.show()
        );
        expected += 1;
        let runs = runs(lab, &mut client)?;
        ensure!(
            runs == expected,
            "cut after {cut} bytes, {expected} requests ran {runs} times"
        );
    }
    Ok(())
}

fn waiting_exec(lab: &Lab<'_>) -> Check {
    let context = json!({"context": lab.tag});
    let first = with(counted(lab, "one", "sleep 1"), &context);
    let second = with(
        counted(lab, "two", "true"),
        &with(context.clone(), &json!({"op_id": 2})),
    );

    let mut client = lab.with(&["contexts"])?;
    client.send(&first)?;
    client.send(&second)?;
    client.receive_for(Some(2))?.expect("queued")?;
    drop(client);

    let mut client = lab.hello(&["contexts"])?;
    succeed(again(&mut client, &first)?)?;
    let ran = runs(lab, &mut client)?;
    if ran != 1 {
        fail!("the waiting exec ran without its client: {ran} runs");
    }
    succeed(client.run(&with(second, &json!({"op_id": 1})))?)?;
    let ran = runs(lab, &mut client)?;
    ensure!(ran == 2, "{ran} runs");
    client
        .ask(&json!({"action": "close_context", "context": lab.tag}))?
        .expect("done")
        .map(drop)
}

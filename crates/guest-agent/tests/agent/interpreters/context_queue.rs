//! Execs that wait for the previous one in their context.

use fumehood_protocol::{
    ContextName, EndedBy, ErrorType, Exec, IdempotencyKey, Language, Request, Response,
};

use crate::interpreters::prepared::run_with;
use crate::operations::input::stdin;
use crate::operations::processes::attach;
use crate::support::{Agent, Client, Outcome, exec, op_id, wait_until};

fn exec_in(id: u64, language: Language, name: &str, code: &str) -> Exec {
    let mut request = exec(Some(id), language, code);
    request.context = Some(ContextName::new(name));
    request
}

fn in_context(id: u64, language: Language, name: &str, code: &str) -> Request {
    Request::Exec(exec_in(id, language, name, code))
}

fn run(client: &mut Client, code: &str) -> Outcome {
    run_with(client, Language::Python, code, |request| {
        request.context = Some(ContextName::new("c"));
    })
}

fn queued(client: &mut Client, id: u64) {
    let response = client.response();
    assert!(matches!(response, Response::Queued(_)), "{response:?}");
    assert_eq!(op_id(&response), Some(id));
}

/// Two execs in one context run one after the other; another context does not wait, nor does a ping.
#[test]
fn execs_in_one_context_queue_in_order() {
    let agent = Agent::open();
    let mut client = agent.hello(&["cancel"]);
    run(&mut client, "import time\nseen = []");
    let first = "time.sleep(0.5); seen.append(1); print(seen)";
    client.send(&in_context(1, Language::Python, "c", first));
    client.send(&in_context(2, Language::Python, "c", "time.sleep(60)"));
    client.send(&in_context(
        3,
        Language::Python,
        "c",
        "seen.append(3); print(seen)",
    ));
    client.send(&in_context(4, Language::Shell, "other", "echo other"));
    for id in [2, 3] {
        let queued = client.response();
        assert!(matches!(queued, Response::Queued(_)), "{queued:?}");
        assert_eq!(op_id(&queued), Some(id));
    }
    client.ping();
    client.cancel(2);
    let mut ends = Vec::new();
    let mut out = Vec::new();
    while ends.len() < 4 {
        let response = client.response();
        let id = op_id(&response).unwrap();
        match response {
            Response::Complete(complete) => ends.push((id, complete.ended_by)),
            Response::Stdout(output) => {
                out.push((id, String::from_utf8(output.chunk.into_bytes()).unwrap()));
            }
            Response::Started(_) => assert_eq!(id, 3),
            other => panic!("{other:?}"),
        }
    }
    let place = |end| ends.iter().position(|found| *found == end).unwrap();
    place((2, EndedBy::Cancelled));
    place((4, EndedBy::Exited));
    assert!(place((1, EndedBy::Exited)) < place((3, EndedBy::Exited)));
    out.sort_by_key(|(id, _)| *id);
    let text = |id, text: &str| (id, text.to_string());
    assert_eq!(
        out,
        [text(1, "[1]\n"), text(3, "[1, 3]\n"), text(4, "other\n")]
    );
    // In version 0 requests run one after the other anyway.
    assert_eq!(run(&mut agent.connect(), "print(seen)").out(), "[1, 3]\n");
}

/// Input that was sent to a queued exec is available when it starts.
#[test]
fn input_waits_with_its_exec() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    client.send(&in_context(1, Language::Shell, "c", "sleep 0.3"));
    let mut second = exec_in(2, Language::Shell, "c", "cat");
    second.stdin = true;
    client.send(&Request::Exec(second));
    stdin(&mut client, 2, b"early", false);
    queued(&mut client, 2);
    stdin(&mut client, 2, b" and late", true);
    assert!(client.outcome().complete().exit_code == 0);
    assert_eq!(client.outcome().out(), "early and late");
    // Input beyond the credit is rejected, and the exec still starts.
    client.send(&in_context(1, Language::Shell, "c", "sleep 0.3"));
    let mut second = exec_in(2, Language::Shell, "c", "wc -c");
    second.stdin = true;
    client.send(&Request::Exec(second));
    queued(&mut client, 2);
    for _ in 0..5 {
        stdin(&mut client, 2, &[b'x'; 60_000], false);
    }
    let error = client.error();
    assert_eq!(
        (error.error_type, error.op_id),
        (ErrorType::ProtocolError, None)
    );
    stdin(&mut client, 2, b"", true);
    client.outcome();
    assert_eq!(client.outcome().out(), "240000\n");
}

/// When a detached exec ends, its context is free and the next exec starts.
#[test]
fn end_of_a_detached_exec_starts_the_next() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let mut first = exec_in(1, Language::Shell, "c", "sleep 0.3");
    first.idempotency_key = Some(IdempotencyKey::new("first"));
    client.send(&Request::Exec(first));
    client.line(r#"{"action":"detach","op_id":1}"#);
    assert!(matches!(client.response(), Response::Detached(_)));
    client.send(&in_context(2, Language::Shell, "c", "echo next"));
    queued(&mut client, 2);
    assert_eq!(client.outcome().out(), "next\n");
}

/// The key of a queued exec is known: repeating the request attaches to it, and it runs once.
#[test]
fn queued_key_runs_once() {
    let agent = Agent::open();
    let (mut one, mut two) = (agent.hello(&["raw_frames"]), agent.hello(&["raw_frames"]));
    let keyed = |id| {
        let mut exec = exec_in(id, Language::Shell, "c", "echo ran | tee -a runs");
        exec.idempotency_key = Some(IdempotencyKey::new("k"));
        Request::Exec(exec)
    };
    one.send(&in_context(1, Language::Shell, "c", "sleep 0.5"));
    one.send(&keyed(2));
    queued(&mut one, 2);
    let mut other = exec(Some(3), Language::Shell, "echo other");
    other.idempotency_key = Some(IdempotencyKey::new("k"));
    one.send(&Request::Exec(other));
    assert!(one.error().message.contains("another request"));
    two.send(&keyed(1));
    queued(&mut two, 1);
    let parting = one.response();
    assert!(matches!(parting, Response::Detached(_)) && op_id(&parting) == Some(2));
    assert_eq!(two.outcome().out(), "ran\n");
    let runs = std::fs::read_to_string(agent.directory.path().join("runs")).unwrap();
    assert_eq!(runs, "ran\n");
}

/// A queued exec stays without its client, and can be attached to.
#[test]
fn queued_exec_can_be_detached() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    client.send(&in_context(1, Language::Shell, "c", "sleep 0.3"));
    let mut second = exec_in(2, Language::Shell, "c", "echo done; echo ran >> runs");
    second.idempotency_key = Some(IdempotencyKey::new("k"));
    client.send(&Request::Exec(second));
    queued(&mut client, 2);
    client.line(r#"{"action":"detach","op_id":2}"#);
    assert!(matches!(client.response(), Response::Detached(_)));
    client.outcome();
    drop(client);
    let runs = agent.directory.path().join("runs");
    wait_until("it runs", || runs.exists());
    let mut client = agent.hello(&["raw_frames"]);
    assert_eq!(attach(&mut client, 1, "k", 0).seq, 0);
    assert_eq!(client.outcome().out(), "done\n");
}

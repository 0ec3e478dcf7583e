//! The same idempotency key never runs anything twice, wherever the connection breaks.

use std::collections::BTreeSet;
use std::io::Write;

use fumehood_protocol::{
    ContextName, EndedBy, IdempotencyKey, Language, Request, Response, encode_line,
};

use crate::operations::processes::spawn;
use crate::support::{Agent, Client, Outcome, exec, wait_until};

/// Appends a line to a file, so that runs can be counted, and prints five lines.
const CODE: &str = "echo run >> runs; for n in 1 2 3 4 5; do echo $n; sleep 0.01; done; exit 7";
const OUTPUT: &str = "1\n2\n3\n4\n5\n";

fn requests() -> [(&'static str, Request); 3] {
    let one_shot = exec(Some(1), Language::Shell, CODE);
    let in_context = exec(
        Some(1),
        Language::Shell,
        &CODE.replace("exit 7", "(exit 7)"),
    );
    let mut in_context = in_context;
    in_context.context = Some(ContextName::new("c"));
    let program = spawn(1, &["sh", "-c", CODE]);
    [
        ("exec", Request::Exec(one_shot)),
        ("context", Request::Exec(in_context)),
        ("spawn", Request::Spawn(program)),
    ]
}

fn with_key(request: &Request, key: &str) -> Request {
    let key = Some(IdempotencyKey::new(key));
    let mut request = request.clone();
    match &mut request {
        Request::Exec(exec) => exec.idempotency_key = key,
        Request::Spawn(spawn) => spawn.idempotency_key = key,
        other => panic!("{other:?}"),
    }
    request
}

/// Sends the request again on a new connection: it runs, is attached to, or is replayed from its record.
fn send_again(agent: &Agent, request: &Request) -> Outcome {
    let mut client = agent.hello(&["raw_frames"]);
    client.send(request);
    let mut outcome = Outcome::default();
    loop {
        let (response, bytes) = client.message();
        if let Response::Attached(attached) = response {
            assert_eq!(attached.seq, 0);
        } else if outcome.add(response, bytes) {
            return outcome;
        }
    }
}

fn count_runs(agent: &Agent) -> usize {
    let text = std::fs::read_to_string(agent.directory.path().join("runs"));
    text.unwrap_or_default().lines().count()
}

fn check(what: &str, outcome: &Outcome) {
    let complete = outcome.complete();
    assert_eq!(outcome.out(), OUTPUT, "{what}");
    let end = (complete.ended_by, complete.exit_code);
    assert_eq!(end, (EndedBy::Exited, 7), "{what}");
    outcome.check_summaries();
}

#[test]
fn disconnect_after_any_message() {
    let agent = Agent::open();
    let mut done = 0;
    for (what, request) in requests() {
        for messages in 0..8 {
            let request = with_key(&request, &format!("{what}-{messages}"));
            let mut client = agent.hello(&["raw_frames"]);
            client.send(&request);
            for _ in 0..messages {
                if matches!(client.response(), Response::Complete(_)) {
                    break;
                }
            }
            drop(client);
            let what = format!("{what} after {messages} messages");
            check(&what, &send_again(&agent, &request));
            check(&what, &send_again(&agent, &request));
            done += 1;
            assert_eq!(count_runs(&agent), done, "{what}");
        }
    }
}

#[test]
fn disconnect_within_the_request() {
    let agent = Agent::open();
    let mut done = 0;
    for (what, request) in requests() {
        let line = encode_line(&with_key(&request, what));
        // A set, because a multiple of seven may also be one of the last two lengths.
        let mut cuts: BTreeSet<usize> = (0..=line.len()).step_by(7).collect();
        cuts.extend([line.len() - 1, line.len()]);
        for cut in cuts {
            let key = format!("{what}-cut-{cut}");
            let request = with_key(&request, &key);
            let line = encode_line(&request);
            let mut client = agent.hello(&["raw_frames"]);
            client
                .stream
                .write_all(&line[..cut.min(line.len())])
                .unwrap();
            drop(client);
            check(&key, &send_again(&agent, &request));
            done += 1;
            assert_eq!(count_runs(&agent), done, "{key}");
        }
    }
}

/// An exec that was queued when its client disconnected has not run; a running one continues.
#[test]
fn queued_exec_does_not_start_without_its_client() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let in_context = |id, code: &str, key: &str| {
        let mut exec = exec(Some(id), Language::Shell, code);
        exec.context = Some(ContextName::new("c"));
        exec.idempotency_key = Some(IdempotencyKey::new(key));
        Request::Exec(exec)
    };
    let first = in_context(1, "echo one >> runs; sleep 0.3", "one");
    let second = in_context(2, "echo two >> runs", "two");
    client.send(&first);
    client.send(&second);
    assert!(matches!(client.response(), Response::Queued(_)));
    drop(client);
    assert_eq!(send_again(&agent, &first).complete().exit_code, 0);
    assert_eq!(count_runs(&agent), 1);
    assert_eq!(send_again(&agent, &second).complete().exit_code, 0);
    assert_eq!(send_again(&agent, &second).complete().exit_code, 0);
    assert_eq!(count_runs(&agent), 2);
}

/// The client disconnects; another one attaches while the exec runs, and a third one after it has ended.
#[test]
fn unread_completion_is_replayed_later() {
    let agent = Agent::open();
    let request = with_key(&requests()[0].1, "k");
    let mut client = agent.hello(&["raw_frames"]);
    client.send(&request);
    drop(client);
    wait_until("it ends by itself", || agent.children().is_empty());
    check("told later", &send_again(&agent, &request));
    // As text, for a client without raw frames.
    let mut client = Client::connect(&agent.address);
    client.line(r#"{"action":"hello","protocol":1}"#);
    client.response();
    client.line(r#"{"action":"attach","idempotency_key":"k","op_id":5}"#);
    assert!(matches!(client.response(), Response::Attached(_)));
    check("told as text", &client.outcome());
    assert_eq!(count_runs(&agent), 1);
}

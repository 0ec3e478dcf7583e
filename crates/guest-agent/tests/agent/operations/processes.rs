//! Programs that `spawn` starts.

use fumehood_protocol::{
    ActionTag, Attach, EndedBy, ErrorType, GuestPath, IdempotencyKey, ListProcesses, OpId,
    ProcessKind, PtySize, Request, Response, SendSignal, SignalName, Spawn,
};

use crate::operations::input::{frame, stdin};
use crate::support::{Agent, Client, Outcome, op_id, wait_until};

pub fn spawn(id: u64, argv: &[&str]) -> Spawn {
    let mut spawn = Spawn::new(argv.iter().copied());
    spawn.op_id = OpId::try_from(id).ok();
    spawn
}

pub fn started(client: &mut Client) -> u32 {
    match client.response() {
        Response::Started(started) => u32::try_from(started.pid).unwrap(),
        other => panic!("not started: {other:?}"),
    }
}

fn run(client: &mut Client, spawn: Spawn) -> Outcome {
    client.send(&Request::Spawn(spawn));
    started(client);
    client.outcome()
}

fn processes(client: &mut Client) -> Vec<fumehood_protocol::ProcessInfo> {
    client.send(&Request::ListProcesses(ListProcesses {
        action: ActionTag,
        op_id: None,
    }));
    match client.response() {
        Response::Processes(listed) => listed.processes,
        other => panic!("no list: {other:?}"),
    }
}

#[test]
fn program_gets_its_arguments_variables_and_directory() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let mut request = spawn(
        1,
        &[
            "sh",
            "-c",
            "printf '%s|' \"$0\" \"$@\" \"$A\"; pwd; cat; exit 3",
            "a b",
            "*",
        ],
    );
    request.env_vars = [("A", "c\nd")].into_iter().collect();
    request.cwd = Some(GuestPath::new("/usr"));
    let outcome = run(&mut client, request);
    assert_eq!(outcome.out(), "a b|*|c\nd|/usr\n");
    let complete = outcome.complete();
    assert_eq!(
        (complete.ended_by, complete.exit_code),
        (EndedBy::Exited, 3)
    );
    outcome.check_summaries();
}

#[test]
fn failed_starts_are_reported() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let mut refused = |change: &dyn Fn(&mut Spawn), error_type, part: &str| {
        let mut request = spawn(1, &["true"]);
        change(&mut request);
        client.send(&Request::Spawn(request));
        let error = loop {
            match client.response() {
                Response::Started(_) => {}
                Response::Error(error) => break error,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(error.error_type, error_type, "{}", error.message);
        assert!(error.message.contains(part), "{}", error.message);
        error.errno
    };
    let none = refused(
        &|s| s.argv = vec!["no-such-program".into()],
        ErrorType::PathError,
        "no-such-program",
    );
    assert_eq!(none, Some(2));
    let none = refused(
        &|s| s.argv = vec!["/no/such/program".into()],
        ErrorType::PathError,
        "could not be started",
    );
    assert_eq!(none, Some(2));
    let denied = refused(
        &|s| s.argv = vec!["/etc/passwd".into()],
        ErrorType::PathError,
        "ermission denied",
    );
    assert_eq!(denied, Some(13));
    let none = refused(
        &|s| s.cwd = Some(GuestPath::new("/nowhere")),
        ErrorType::PathError,
        "/nowhere",
    );
    assert_eq!(none, Some(2));
    refused(
        &|s| s.user = Some(fumehood_protocol::User::Root),
        ErrorType::RequestError,
        "allow_root",
    );
    refused(&|s| s.argv.clear(), ErrorType::RequestError, "argv");
    client.ping();
}

#[test]
fn input_signals_and_cancel_reach_a_program() {
    let agent = Agent::start(&["--no-token", "--limit", "grace_ms=200"]);
    let mut client = agent.hello(&["raw_frames"]);
    let mut request = spawn(1, &["cat"]);
    request.stdin = true;
    client.send(&Request::Spawn(request));
    started(&mut client);
    stdin(&mut client, 1, b"\xff\0", false);
    frame(&mut client, 1, b"\nend", true);
    assert_eq!(client.outcome().stdout, b"\xff\0\nend");

    for signal in [SignalName::Number(10), SignalName::Name("SIGUSR1".into())] {
        client.send(&Request::Spawn(spawn(2, &["sleep", "60"])));
        started(&mut client);
        client.send(&Request::Signal(SendSignal {
            action: ActionTag,
            op_id: OpId::try_from(2).unwrap(),
            signal,
        }));
        let outcome = client.outcome();
        let complete = outcome.complete();
        assert_eq!(
            (complete.ended_by, complete.exit_code),
            (EndedBy::Signaled, 138)
        );
    }
    let stubborn = "trap '' INT TERM; echo up; sleep 60; sleep 60";
    client.send(&Request::Spawn(spawn(3, &["sh", "-c", stubborn])));
    started(&mut client);
    assert!(matches!(client.response(), Response::Data(_)));
    client.cancel(3);
    let mut outcome = Outcome::default();
    outcome.pieces.push(Vec::new());
    client.collect_rest(&mut outcome);
    assert_eq!(outcome.complete().ended_by, EndedBy::Cancelled);
    let mut request = spawn(4, &["sleep", "60"]);
    request.timeout = Some(1);
    assert_eq!(
        run(&mut client, request).complete().ended_by,
        EndedBy::Timeout
    );
    wait_until("nothing is left", || agent.children().is_empty());
}

#[test]
fn a_terminal() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let script =
        "tty -s && stty size; stty -echo; read a; echo \"<$a>\"; read b; stty size; echo end";
    let mut request = spawn(1, &["sh", "-c", script]);
    request.pty = Some(PtySize {
        rows: 30,
        cols: 100,
    });
    client.send(&Request::Spawn(request));
    started(&mut client);
    let mut outcome = Outcome::default();
    while !outcome.out().contains("30 100") {
        let (response, bytes) = client.message();
        assert!(!outcome.add(response, bytes));
    }
    stdin(&mut client, 1, b"typed\n", false);
    while !outcome.out().contains("<typed>") {
        let (response, bytes) = client.message();
        assert!(!outcome.add(response, bytes));
    }
    client.line(r#"{"action":"resize","op_id":1,"rows":50,"cols":132}"#);
    stdin(&mut client, 1, b"\n", false);
    client.collect_rest(&mut outcome);
    assert!(
        outcome.out().ends_with("50 132\r\nend\r\n"),
        "{:?}",
        outcome.out()
    );
    assert_eq!(outcome.complete().exit_code, 0);

    // Ctrl-C interrupts, and the end of input is a character.
    let mut request = spawn(2, &["cat"]);
    request.pty = Some(PtySize { rows: 24, cols: 80 });
    client.send(&Request::Spawn(request.clone()));
    started(&mut client);
    stdin(&mut client, 2, b"\x03", false);
    assert_eq!(client.outcome().complete().exit_code, 130);
    client.send(&Request::Spawn(request));
    started(&mut client);
    stdin(&mut client, 2, b"x\n", true);
    let outcome = client.outcome();
    assert_eq!(
        (outcome.out(), outcome.complete().exit_code),
        ("x\r\nx\r\n", 0)
    );
}

/// The last output arrives before the end, even if much was written right before.
#[test]
fn last_output_of_a_terminal() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    for _ in 0..20 {
        let mut request = spawn(1, &["sh", "-c", "stty -opost; seq 1 3000; printf end"]);
        request.pty = Some(PtySize { rows: 24, cols: 80 });
        let outcome = run(&mut client, request);
        assert_eq!(outcome.stdout.len(), 13_893 + 3);
        assert!(outcome.out().ends_with("3000\nend"));
    }
}

#[test]
fn programs_are_listed() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let mut other = agent.hello(&["raw_frames"]);
    let mut request = spawn(1, &["sleep", "60"]);
    request.tag = Some("a server".into());
    client.send(&Request::Spawn(request));
    let pid = started(&mut client);
    let mut listed = Vec::new();
    wait_until("it has become the program", || {
        listed = processes(&mut other);
        listed.len() == 1 && listed[0].command == "sleep 60"
    });
    let one = &listed[0];
    assert_eq!(
        (one.pid, one.kind),
        (i32::try_from(pid).unwrap(), ProcessKind::Spawn)
    );
    assert_eq!(
        (one.command.as_str(), one.tag.as_deref()),
        ("sleep 60", Some("a server"))
    );
    assert!(one.attached && one.context.is_none());
    client.cancel(1);
    client.outcome();
    client.exec(2, fumehood_protocol::Language::Python, "1");
    client.outcome();
    let mut request = crate::support::exec(Some(3), fumehood_protocol::Language::Python, "1");
    request.context = Some(fumehood_protocol::ContextName::new("c"));
    client.send(&Request::Exec(request));
    client.outcome();
    let listed = processes(&mut client);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].kind, listed[0].context.as_deref()),
        (ProcessKind::Context, Some("c"))
    );
    assert!(
        listed[0].command.starts_with("python3"),
        "{}",
        listed[0].command
    );
}

fn keyed(id: u64, key: &str, argv: &[&str]) -> Request {
    let mut spawn = spawn(id, argv);
    spawn.idempotency_key = Some(IdempotencyKey::new(key));
    Request::Spawn(spawn)
}

pub fn attach(
    client: &mut Client,
    id: u64,
    key: &str,
    from_seq: u64,
) -> fumehood_protocol::Attached {
    client.send(&Request::Attach(Attach {
        action: ActionTag,
        op_id: OpId::try_from(id).ok(),
        idempotency_key: IdempotencyKey::new(key),
        from_seq,
        credit: None,
    }));
    match client.response() {
        Response::Attached(attached) => attached,
        other => panic!("not attached: {other:?}"),
    }
}

#[test]
fn detached_program_can_be_attached() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let script = "for n in 1 2 3; do echo $n; read x; done; echo end";
    let mut request = spawn(1, &["sh", "-c", script]);
    request.idempotency_key = Some(IdempotencyKey::new("k"));
    request.stdin = true;
    client.send(&Request::Spawn(request));
    let pid = started(&mut client);
    assert_eq!(client.message().1, b"1\n");
    client.line(r#"{"action":"detach","op_id":1}"#);
    assert!(matches!(client.response(), Response::Detached(_)));
    drop(client);
    let mut client = agent.hello(&["raw_frames"]);
    let listed = processes(&mut client);
    assert!(!listed[0].attached);
    assert_eq!(listed[0].idempotency_key, Some(IdempotencyKey::new("k")));
    let attached = attach(&mut client, 7, "k", 0);
    assert_eq!((attached.seq, attached.pid), (0, i32::try_from(pid).ok()));
    assert_eq!(attached.input_bytes, Some(0));
    assert_eq!(client.message().1, b"1\n");
    stdin(&mut client, 7, b"\n", false);
    assert_eq!(client.message().1, b"2\n");
    // Another client attaches, from an offset on.
    let mut other = agent.hello(&["raw_frames"]);
    let attached = attach(&mut other, 1, "k", 1);
    assert_eq!((attached.seq, attached.input_bytes), (1, Some(1)));
    let parting = client.response();
    assert!(matches!(parting, Response::Detached(_)) && op_id(&parting) == Some(7));
    assert_eq!(other.message().1, b"2\n");
    stdin(&mut other, 1, b"\n\n", true);
    let mut outcome = Outcome::after(2);
    other.collect_rest(&mut outcome);
    assert_eq!(outcome.out(), "3\nend\n");
    assert_eq!(outcome.complete().stdout.bytes, 10);
    // An operation that has ended can still be attached to.
    let attached = attach(&mut client, 8, "k", 0);
    assert_eq!((attached.seq, attached.pid), (0, None));
    let outcome = client.outcome();
    assert_eq!(outcome.out(), "1\n2\n3\nend\n");
    outcome.check_summaries();
    client.ping();
}

#[test]
fn what_is_refused() {
    let agent = Agent::start(&[
        "--no-token",
        "--limit",
        "detached=1",
        "--limit",
        "journal_keys=2",
    ]);
    let mut client = agent.hello(&["raw_frames"]);
    client.expect_error(
        r#"{"action":"attach","idempotency_key":"none"}"#,
        ErrorType::RequestError,
        &["`none`"],
    );
    client.send(&keyed(1, "k", &["sleep", "60"]));
    started(&mut client);
    client.send(&keyed(2, "k", &["sleep", "61"]));
    let error = client.error();
    assert!(
        error.message.contains("another request"),
        "{}",
        error.message
    );
    client.send(&keyed(2, "l", &["sleep", "61"]));
    assert_eq!(client.error().error_type, ErrorType::BusyError);
    client.expect_error(
        r#"{"action":"attach","op_id":9,"idempotency_key":"k","from_seq":1}"#,
        ErrorType::RequestError,
        &["from_seq", "0 pieces"],
    );
    client.expect_error(
        r#"{"action":"attach","op_id":9,"idempotency_key":"k","credit":1}"#,
        ErrorType::RequestError,
        &["credit", "65540"],
    );
    client.cancel(1);
    client.outcome();
    client.send(&keyed(1, "l", &["true"]));
    started(&mut client);
    client.outcome();
    // Keys are never forgotten, so a full journal rejects new ones.
    client.send(&keyed(1, "m", &["true"]));
    let error = client.error();
    assert!(
        error.message.contains("2 idempotency keys"),
        "{}",
        error.message
    );
    client.send(&Request::Spawn(spawn(3, &["sleep", "60"])));
    started(&mut client);
    client.line(r#"{"action":"detach","op_id":3}"#);
    assert!(client.error().message.contains("no idempotency key"));
}

/// A detached program that writes without end continues, and its latest output is available.
#[test]
fn detached_output_is_limited() {
    let agent = Agent::start(&["--no-token", "--limit", "replay_bytes=200000"]);
    let mut client = agent.hello(&["raw_frames"]);
    client.send(&keyed(
        1,
        "k",
        &["sh", "-c", "yes | head -c 20000000; sleep 0.2; echo last"],
    ));
    started(&mut client);
    drop(client);
    let mut client = agent.hello(&["raw_frames"]);
    wait_until("it ends", || processes(&mut client).is_empty());
    let attached = attach(&mut client, 1, "k", 0);
    assert!(attached.seq > 100, "{attached:?}");
    let mut outcome = Outcome::after(usize::try_from(attached.seq).unwrap());
    client.collect_rest(&mut outcome);
    assert!(outcome.out().ends_with("y\nlast\n"));
    assert!(outcome.stdout.len() <= 200_000);
    assert_eq!(outcome.complete().stdout.bytes, 20_000_005);
}

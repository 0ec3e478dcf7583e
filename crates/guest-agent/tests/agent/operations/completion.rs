//! Every way in which an exec can end.

use std::time::{Duration, Instant};

use fumehood_protocol::{Complete, EndedBy, Language, Request, Response};

use crate::support::{Agent, Outcome, exec, is_alive, wait_until};

fn check(complete: &Complete, ended_by: EndedBy, exit_code: i32, signal: Option<i32>) {
    let found = (
        complete.ended_by,
        complete.exit_code,
        complete.evidence.signal,
    );
    assert_eq!(found, (ended_by, exit_code, signal), "{complete:?}");
}

#[test]
fn python_exits() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, exit, part) in [
        ("pass", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("raise SystemExit(7)", 7, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit('bye')", 1, "bye\n"),
        ("import os; os._exit(7)", 7, ""),
        ("x = (", 1, "SyntaxError: '(' was never closed"),
        ("import sys; sys.stdout.close(); sys.exit(3)", 3, ""),
        ("import os; os.close(1); os.close(2); os._exit(3)", 3, ""),
    ] {
        let outcome = client.python(code);
        check(outcome.complete(), EndedBy::Exited, exit, None);
        assert!(outcome.err().contains(part), "{code}: {}", outcome.err());
    }

    // Python ends by the signal that it was interrupted by, so that a shell knows.
    let outcome = client.python("raise KeyboardInterrupt");
    check(outcome.complete(), EndedBy::Signaled, 130, Some(2));
    assert!(outcome.err().ends_with("\nKeyboardInterrupt\n"));
}

#[test]
fn shell_exits() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, exit, part) in [
        ("", 0, ""),
        ("exit 7", 7, ""),
        ("false", 1, ""),
        ("set -e\nfalse\necho no", 1, ""),
        ("nosuchprogram", 127, "line 1: nosuchprogram"),
        ("true\n\nnosuchprogram", 127, "line 3: nosuchprogram"),
        ("if then", 2, "syntax error"),
        ("trap 'exit 9' EXIT", 9, ""),
    ] {
        let outcome = client.shell(code);
        check(outcome.complete(), EndedBy::Exited, exit, None);
        assert!(outcome.err().contains(part), "{code}: {}", outcome.err());
    }
}

#[test]
fn signals() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (language, code, signal) in [
        (Language::Shell, "kill -9 $$", 9),
        (Language::Shell, "kill -TERM $$", 15),
        (Language::Shell, "kill -SEGV $$", 11),
        (Language::Python, "import ctypes; ctypes.string_at(0)", 11),
        (Language::Python, "import os; os.abort()", 6),
        (
            Language::Python,
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            9,
        ),
    ] {
        let outcome = client.run(language, code);
        check(
            outcome.complete(),
            EndedBy::Signaled,
            128 + signal,
            Some(signal),
        );
    }
}

#[test]
fn timeouts() {
    let agent = Agent::start(&["--no-token", "--limit", "grace_ms=300"]);
    let mut client = agent.connect();
    let stubborn = "import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready')
while True: pass";
    for (language, code, signal, least) in [
        (Language::Python, "while True: pass", Some(2), 1000),
        (Language::Python, stubborn, Some(9), 1600),
        (Language::Shell, "sleep 60", Some(2), 1000),
        (Language::Shell, "trap '' INT; sleep 60", Some(15), 1300),
        (Language::Shell, "kill -STOP $$", Some(9), 1600),
    ] {
        let mut request = exec(None, language, code);
        request.timeout = Some(1);
        client.send(&Request::Exec(request));
        let outcome = client.outcome();
        check(outcome.complete(), EndedBy::Timeout, 124, signal);
        let took = outcome.complete().execution_time_ms;
        assert!((least..least + 5000).contains(&took), "{code}: {took} ms");
    }
    assert!(client.python("print('next')").out() == "next\n");
}

#[test]
fn program_that_ends_in_time_does_not_time_out() {
    let agent = Agent::open();
    let mut request = exec(None, Language::Shell, "sleep 0.5; exit 124");
    request.timeout = Some(20);
    let mut client = agent.connect();
    client.send(&Request::Exec(request));
    check(client.outcome().complete(), EndedBy::Exited, 124, None);
}

#[test]
fn cancelling() {
    let agent = Agent::start(&["--no-token", "--limit", "grace_ms=200"]);
    let mut client = agent.hello(&["cancel"]);
    let begun = Instant::now();
    for (code, signal) in [
        ("print('ready')\nwhile True: pass", Some(2)),
        (
            "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('ready')\nwhile True: pass",
            Some(15),
        ),
        (
            "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nprint('ready')\nwhile True: pass",
            Some(9),
        ),
    ] {
        client.exec(1, Language::Python, code);
        let mut outcome = Outcome::default();
        let (response, bytes) = client.message();
        assert!(!outcome.add(response, bytes), "{outcome:?}");
        client.cancel(1);
        client.cancel(1);
        client.collect_rest(&mut outcome);
        check(outcome.complete(), EndedBy::Cancelled, 130, signal);
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn leftover_processes_are_killed_and_counted() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let outcome = client.shell("(sleep 60 & sleep 60 &) ; sleep 60 & setsid sleep 60 & sleep 0.3; ps -e -o pid= -o comm= | grep -c sleep >&2");
    assert_eq!(
        outcome.complete().evidence.left_processes,
        Some(4),
        "{outcome:?}"
    );
    wait_until("nothing is left", || agent.children().is_empty());
    assert_eq!(
        client.shell("true").complete().evidence.left_processes,
        None
    );
}

#[test]
fn disconnect_kills_programs() {
    let agent = Agent::open();
    let mut client = agent.hello(&[]);
    client.exec(1, Language::Python, "import os, signal\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\nprint(os.getpid(), flush=True)\nwhile True: pass");
    let Response::Stdout(output) = client.response() else {
        panic!("no output")
    };
    let pid = String::from_utf8(output.chunk.into_bytes())
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(is_alive(pid));
    drop(client);
    wait_until("the program is killed", || !is_alive(pid));
    wait_until("it is reaped", || agent.children().is_empty());
}

#[test]
fn usage_is_reported() {
    let agent = Agent::open();
    let outcome = agent.connect().python("x = bytearray(50_000_000)\nimport time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass");
    let complete = outcome.complete();
    assert!(
        complete.evidence.cpu_time_us.unwrap() >= 300_000,
        "{complete:?}"
    );
    assert!(
        complete.evidence.peak_memory_bytes.unwrap() >= 50_000_000,
        "{complete:?}"
    );
    let (spawn, process) = (complete.spawn_ms.unwrap(), complete.process_ms.unwrap());
    assert!(process >= 300, "{complete:?}");
    assert!(
        (spawn + process).abs_diff(complete.execution_time_ms) <= 1,
        "{complete:?}"
    );
}

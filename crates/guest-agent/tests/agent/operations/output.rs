//! Output: exact, in time, and never more than the client reads.

use std::time::{Duration, Instant};

use fumehood_protocol::{Chunk, Language, Request, Response};

use crate::support::{Agent, Client, Outcome, exec, wait_until};

const RAW: &[&str] = &["raw_frames", "credit", "cancel"];

fn python(client: &mut Client, code: &str) -> Outcome {
    client.exec(1, Language::Python, code);
    let outcome = client.outcome();
    assert_eq!(outcome.complete().exit_code, 0, "{outcome:?}");
    outcome.check_summaries();
    outcome
}

#[test]
fn invalid_utf8_is_exact_and_replaced_in_version_0() {
    let code = "import os; os.write(1, b'a\\xffb'); os.write(2, b'\\xff')";
    let agent = Agent::open();
    for features in [&[][..], RAW] {
        let outcome = python(&mut agent.hello(features), code);
        assert_eq!(
            (outcome.stdout.as_slice(), outcome.stderr.as_slice()),
            (&b"a\xffb"[..], &b"\xff"[..])
        );
    }
    let outcome = agent.connect().python(code);
    assert_eq!((outcome.out(), outcome.err()), ("a\u{fffd}b", "\u{fffd}"));
    assert_eq!(
        outcome.complete().stdout.bytes,
        3,
        "bytes are counted as the program wrote them"
    );
}

#[test]
fn character_split_between_two_writes() {
    let code = "import os, time
for part in (b'\\xc3', b'\\xa9', b'\\xe2\\x82', b'\\xac!'):
    os.write(1, part)
    time.sleep(0.1)
os.write(1, b'\\xe2\\x82')";
    let agent = Agent::open();
    for features in [&[][..], RAW] {
        let outcome = python(&mut agent.hello(features), code);
        assert_eq!(outcome.stdout, b"\xc3\xa9\xe2\x82\xac!\xe2\x82");
        if features.is_empty() {
            for piece in &outcome.pieces[..outcome.pieces.len() - 1] {
                assert!(
                    std::str::from_utf8(piece).is_ok(),
                    "a character was split: {piece:?}"
                );
            }
        }
    }
    assert_eq!(agent.connect().python(code).out(), "é€!\u{fffd}");
}

#[test]
fn random_megabyte_is_exact() {
    let code = "import os, random
data = random.Random(7).randbytes(1 << 20)
view = memoryview(data)
while view: view = view[os.write(1, view):]";
    let agent = Agent::open();
    let raw = python(&mut agent.hello(RAW), code);
    let base64 = python(&mut agent.hello(&[]), code);
    assert_eq!(raw.stdout.len(), 1 << 20);
    assert_eq!(raw.stdout, base64.stdout);
}

#[test]
fn first_output_is_sent_at_once_and_later_output_is_buffered() {
    let agent = Agent::open();
    let mut client = agent.hello(&[]);
    let code = "import sys, time
print('first'); sys.stdout.flush()
time.sleep(0.3)
for n in range(300): print(n)
time.sleep(60)";
    client.exec(1, Language::Python, code);
    let Response::Stdout(first) = client.response() else {
        panic!("no output")
    };
    assert_eq!(first.chunk, Chunk::Text("first\n".into()));
    let mut rest = Vec::new();
    let mut pieces = 0;
    while !rest.ends_with(b"299\n") {
        let Response::Stdout(output) = client.response() else {
            panic!("no output")
        };
        rest.extend(output.chunk.into_bytes());
        pieces += 1;
    }
    assert!(pieces < 30, "300 lines came in {pieces} pieces");
}

#[test]
fn background_child_with_stdout_does_not_delay_the_end() {
    let agent = Agent::open();
    let begun = Instant::now();
    let outcome = agent.connect().shell("sleep 50 & echo done");
    assert_eq!(outcome.out(), "done\n");
    assert_eq!(outcome.complete().evidence.left_processes, Some(1));
    assert!(begun.elapsed() < Duration::from_secs(20));
    wait_until("the child is killed and reaped", || {
        agent.children().is_empty()
    });
}

#[test]
fn all_output_arrives_before_the_end() {
    let agent = Agent::open();
    let mut client = agent.hello(RAW);
    for _ in 0..20 {
        client.exec(
            1,
            Language::Shell,
            "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2",
        );
        let outcome = client.outcome();
        assert_eq!(
            (outcome.stdout.len(), outcome.stderr.len()),
            (60_000, 60_000)
        );
        outcome.check_summaries();
    }
}

#[test]
fn slow_reader_slows_only_its_program() {
    let agent = Agent::open();
    let mut slow = agent.hello(RAW);
    slow.exec(1, Language::Shell, "exec yes");
    let mut other = agent.connect();
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        other.ping();
        most = most.max(agent.resident_kib());
    }
    assert!(most < 32 * 1024, "the agent grew to {most} KiB");
    slow.cancel(1);
    let outcome = slow.outcome();
    assert_eq!(outcome.complete().exit_code, 130);
    outcome.check_summaries();
}

#[test]
fn heavy_output_needs_constant_memory() {
    let agent = Agent::open();
    let mut client = agent.hello(RAW);
    let total: u64 = 1 << 30;
    client.exec(1, Language::Shell, &format!("head -c {total} /dev/zero"));
    let (mut bytes, mut most, begun) = (0, 0, Instant::now());
    let complete = loop {
        match client.message() {
            (Response::Data(data), _) => {
                bytes += data.len;
                if data.seq % 1000 == 0 {
                    most = most.max(agent.resident_kib());
                }
            }
            (Response::Complete(complete), _) => break complete,
            (other, _) => panic!("{other:?}"),
        }
    };
    eprintln!(
        "{:.0} MB/s",
        total as f64 / 1e6 / begun.elapsed().as_secs_f64()
    );
    assert_eq!((bytes, complete.stdout.bytes), (total, total));
    assert!(most < 32 * 1024, "the agent grew to {most} KiB");
}

#[test]
fn credit_limits_output() {
    let agent = Agent::open();
    let mut client = agent.hello(RAW);
    let mut request = exec(
        Some(1),
        Language::Shell,
        "head -c 200000 /dev/zero; head -c 10 /dev/zero >&2",
    );
    request.credit = Some(1000);
    client.send(&Request::Exec(request));
    let mut outcome = Outcome::default();
    let take = |client: &mut Client, outcome: &mut Outcome, until: usize| {
        while outcome.stdout.len() + outcome.stderr.len() < until {
            let (response, bytes) = client.message();
            assert!(!outcome.add(response, bytes), "it ended: {outcome:?}");
        }
        assert_eq!(outcome.stdout.len() + outcome.stderr.len(), until);
    };
    take(&mut client, &mut outcome, 1000);
    client.ping();
    client.credit(1, 99_000);
    take(&mut client, &mut outcome, 100_000);
    client.ping();
    client.credit(1, 1_000_000);
    client.collect_rest(&mut outcome);
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (200_000, 10));
    outcome.check_summaries();
}

#[test]
fn ended_program_without_credit_waits_or_is_cancelled() {
    let agent = Agent::open();
    let mut client = agent.hello(RAW);
    let mut request = exec(Some(1), Language::Shell, "echo 0123456789; exit 3");
    request.credit = Some(4);
    client.send(&Request::Exec(request));
    let (response, bytes) = client.message();
    let mut outcome = Outcome::default();
    outcome.add(response, bytes);
    assert_eq!(outcome.stdout, b"0123");
    wait_until("the program has ended", || agent.children().is_empty());
    client.cancel(1);
    let end = client.outcome();
    assert_eq!(
        (end.complete().exit_code, end.complete().stdout.bytes),
        (3, 4)
    );
    assert!(end.complete().evidence.detail.is_some());
}

#[test]
fn closed_stdout_does_not_end_the_exec() {
    let agent = Agent::open();
    let outcome = agent.connect().shell("exec >&- 2>&-; sleep 0.2; exit 4");
    assert_eq!(outcome.complete().exit_code, 4);
}

/// A program can open its own pipe and take bytes that the agent has counted.
#[test]
fn output_that_its_program_reads_back_does_not_hold_up_the_agent() {
    let code = "import os
own = [os.open(f'/dev/fd/{n}', os.O_RDONLY | os.O_NONBLOCK) for n in (1, 2)]
for at in range(300):
    os.write(1 + at % 2, b'x' * 100)
    try: os.read(own[at % 2], 70)
    except BlockingIOError: pass";
    let agent = Agent::open();
    let mut client = agent.hello(RAW);
    client.exec(1, Language::Python, code);
    let outcome = client.outcome();
    assert_eq!(outcome.complete().exit_code, 0, "{outcome:?}");
    outcome.check_summaries();
    client.ping();
}

#[test]
fn values_do_not_overtake_output() {
    let agent = Agent::open();
    let mut client = agent.hello(RAW);
    for _ in 0..20 {
        let mut request = exec(
            Some(1),
            Language::Python,
            "print('one')\nprint('two')\nprint('three')\n7",
        );
        request.display = true;
        client.send(&Request::Exec(request));
        let outcome = client.outcome();
        assert_eq!(outcome.complete().exit_code, 0, "{outcome:?}");

        let all = outcome.pieces.concat();
        assert!(all.starts_with(b"one\ntwo\nthree\n{"), "{outcome:?}");
    }
}

//! Why something ended: each cause with its evidence, for one-shot code, in a context and by spawn.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::{
    RunTranscript, finish_run, next_stdout, read_stdout_until, run_in, sandbox, send,
};
use fumehood_engine::{
    Config, EndedBy, Engine, Language, Limits, Run, RunRequest, Sandbox, SpawnRequest,
};
use futures_util::future::join_all;
use rustix::process::Signal;

/// What can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    OneShot,
    Context,
    Spawn,
}

const KINDS: [Kind; 3] = [Kind::OneShot, Kind::Context, Kind::Spawn];

/// Starts Python code; contexts are called `c`.
fn start(sandbox: &Sandbox, kind: Kind, code: &str, timeout_s: u64) -> Run {
    start_in(sandbox, kind, "c", code, timeout_s)
}

/// Starts Python code; if it is to run in a context, in this one.
fn start_in(sandbox: &Sandbox, kind: Kind, context: &str, code: &str, timeout_s: u64) -> Run {
    let request = RunRequest::new(Language::Python, code).timeout_s(timeout_s);
    match kind {
        Kind::OneShot => sandbox.run(&request),
        Kind::Context => sandbox.run(&request.context(context)),
        Kind::Spawn => {
            sandbox.spawn(&SpawnRequest::new(["python3", "-c", code]).timeout_s(timeout_s))
        }
    }
    .unwrap()
}

async fn run_to_end(sandbox: &Sandbox, kind: Kind, code: &str) -> RunTranscript {
    finish_run(start(sandbox, kind, code, 120)).await
}

/// Checks that a context reports that its state is lost, and that the others report nothing.
fn assert_state_loss_is_reported(kind: Kind, transcript: &RunTranscript) {
    if kind == Kind::Context {
        assert!(
            transcript.detail().contains("state is lost"),
            "{transcript:?}"
        );
    } else {
        assert_eq!(transcript.detail(), "", "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_is_reported() {
    let sandbox = sandbox(512).await;
    // The three kinds are independent of each other.
    join_all(KINDS.map(async |kind| {
        for (code, exit_code) in [
            ("import sys; sys.exit(7)", 7),
            ("1 / 0", 1),
            ("print('x')", 0),
            ("raise SystemExit(300)", 44),
        ] {
            let transcript = run_to_end(&sandbox, kind, code).await;
            assert_eq!(
                transcript.end(),
                (EndedBy::Exited, Some(exit_code)),
                "{kind:?} {code}"
            );

            let evidence = &transcript.outcome.evidence;
            assert_eq!(
                (evidence.signal, evidence.oom_kills, transcript.detail()),
                (None, None, ""),
                "{kind:?} {code}"
            );
        }

        let transcript = run_to_end(&sandbox, kind, "import os; os._exit(9)").await;
        assert_eq!(transcript.end(), (EndedBy::Exited, Some(9)), "{kind:?}");
        assert_state_loss_is_reported(kind, &transcript);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_are_reported() {
    let sandbox = sandbox(512).await;
    // The three kinds are independent of each other.
    join_all(KINDS.map(async |kind| {
        for (code, signal) in [
            ("import ctypes; ctypes.string_at(0)", 11),
            ("import os; os.kill(os.getpid(), 9)", 9),
            ("import os; os.abort()", 6),
            ("import os; os.kill(os.getpid(), 15)", 15),
        ] {
            let transcript = run_to_end(&sandbox, kind, code).await;
            assert_eq!(
                transcript.end(),
                (EndedBy::Signaled, Some(128 + signal)),
                "{kind:?} {code}"
            );

            let evidence = &transcript.outcome.evidence;
            assert_eq!(
                (evidence.signal, evidence.oom_kills),
                (Some(signal), None),
                "{kind:?} {code}"
            );
            assert_state_loss_is_reported(kind, &transcript);
        }

        // One that exits with such a number was not signalled.
        let transcript = run_to_end(&sandbox, kind, "import sys; sys.exit(137)").await;
        assert_eq!(transcript.end(), (EndedBy::Exited, Some(137)));
        assert_eq!(transcript.outcome.evidence.signal, None);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_is_reported() {
    /// Enough for three interpreters to start, beside six that wait.
    const TIMEOUT_S: u64 = 10;

    // Three tracebacks at once take a second on a host that is busy with other things.
    let limits = Limits {
        grace_ms: 5000,
        ..Limits::default()
    };

    let config = Config {
        limits,
        ..Config::default()
    };

    let sandbox = Engine::start(config).unwrap().sandbox().await.unwrap();

    let sleeping = "import time; print('up', flush=True); time.sleep(100)";
    let stubborn = "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nprint('up', flush=True)\nwhile True: time.sleep(1)";
    let polite = "import time\ntry: time.sleep(100)\nexcept KeyboardInterrupt: print('bye')";

    // The contexts' interpreters start before the time of their runs.
    for name in ["sleeping", "stubborn", "polite"] {
        let context = sandbox.context(name, Language::Python);
        assert_eq!(run_in(&context, "").await.end(), (EndedBy::Exited, Some(0)));
    }

    // All at once: most of it is waiting. Long enough for interpreters to start on a busy host.
    let run = async |context: &str, code: &str| {
        let runs = KINDS.map(|kind| start_in(&sandbox, kind, context, code, TIMEOUT_S));
        let transcripts = join_all(runs.map(finish_run)).await;
        for (kind, transcript) in KINDS.iter().zip(&transcripts) {
            let end = (EndedBy::Timeout, Some(124));
            assert_eq!(transcript.end(), end, "{kind:?} {code}");
        }
        KINDS.into_iter().zip(transcripts)
    };
    let (sleeping, stubborn, polite) = tokio::join!(
        run("sleeping", sleeping),
        run("stubborn", stubborn),
        run("polite", polite),
    );

    for (kind, transcript) in sleeping {
        assert_eq!(
            (transcript.out(), transcript.detail()),
            ("up\n", ""),
            "{kind:?}"
        );
        assert!(
            transcript.err().contains("Traceback"),
            "{kind:?} {}",
            transcript.err()
        );
    }
    for (kind, transcript) in stubborn {
        assert_eq!(transcript.outcome.evidence.signal, Some(9), "{kind:?}");
        assert_state_loss_is_reported(kind, &transcript);
    }

    // One that uses the last moment to end well has still used up its time.
    for (kind, transcript) in polite {
        assert_eq!(transcript.out(), "bye\n", "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellation_is_reported() {
    let sandbox = sandbox(512).await;
    for kind in KINDS {
        for (code, is_killed) in [
            ("print('up', flush=True)\nwhile True: pass", false),
            (
                "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nprint('up', flush=True)\nwhile True: pass",
                true,
            ),
        ] {
            let mut run = start(&sandbox, kind, code, 120);
            assert_eq!(next_stdout(&mut run).await, "up\n");
            run.canceller().cancel();
            run.canceller().cancel();
            let transcript = finish_run(run).await;
            assert_eq!(
                transcript.end(),
                (EndedBy::Cancelled, Some(130)),
                "{kind:?} {code}"
            );

            if is_killed {
                assert_eq!(transcript.outcome.evidence.signal, Some(9), "{kind:?}");
                assert_state_loss_is_reported(kind, &transcript);
            } else {
                assert_eq!(transcript.detail(), "", "{kind:?}");
            }
        }

        // One that has ended already has ended as it did.
        let run = start(&sandbox, kind, "print('over')", 120);
        let canceller = run.canceller();
        assert_eq!(finish_run(run).await.end(), (EndedBy::Exited, Some(0)));
        canceller.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_memory_is_reported() {
    const MIB: u64 = 256;
    let sandbox = sandbox(256).await;

    for kind in KINDS {
        let transcript = run_to_end(
            &sandbox,
            kind,
            "x = []\nwhile True: x.append(bytearray(1 << 20))",
        )
        .await;
        assert_eq!(
            transcript.end(),
            (EndedBy::OutOfMemory, Some(137)),
            "{kind:?} {transcript:?}"
        );

        let evidence = &transcript.outcome.evidence;
        assert_eq!(evidence.signal, Some(9));
        assert!(evidence.oom_kills.unwrap() >= 1, "{kind:?} {evidence:?}");
        let peak = evidence.peak_memory_bytes.unwrap() >> 20;
        assert!((MIB / 3..MIB).contains(&peak), "{kind:?} {evidence:?}");

        if kind == Kind::Context {
            assert!(
                transcript.detail().contains("state is lost"),
                "{transcript:?}"
            );
        }

        // A signal of the same number is none.
        let transcript = run_to_end(&sandbox, kind, "import os; os.kill(os.getpid(), 9)").await;
        assert_eq!(transcript.end(), (EndedBy::Signaled, Some(137)), "{kind:?}");

        // An allocation that is refused is the program's matter.
        let transcript = run_to_end(
            &sandbox,
            kind,
            "try: bytearray(1 << 40)\nexcept MemoryError: print('refused')",
        )
        .await;
        assert_eq!(
            (transcript.out(), transcript.end()),
            ("refused\n", (EndedBy::Exited, Some(0))),
            "{kind:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_the_agent_is_reported() {
    let sandbox = sandbox(512).await;
    let mut runs = KINDS.map(|kind| {
        start(
            &sandbox,
            kind,
            "print('up', flush=True)\nwhile True: pass",
            120,
        )
    });

    for run in &mut runs {
        read_stdout_until(run, "up\n").await;
    }

    send(sandbox.process_id(), Signal::KILL);
    for run in runs {
        let transcript = finish_run(run).await;
        assert_eq!(transcript.end(), (EndedBy::AgentLost, None));
        let evidence = &transcript.outcome.evidence;
        assert_eq!(
            (evidence.signal, evidence.oom_kills, evidence.cpu_time_us),
            (None, None, None)
        );
        assert!(
            transcript.detail().contains("signal"),
            "{}",
            transcript.detail()
        );
        assert!(sandbox.ended().is_some());
    }
}

/// Figures are those of the one that ended, and no guesses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resource_usage_is_that_of_the_run() {
    let sandbox = sandbox(512).await;
    // A neighbour that uses much is not counted.
    let mut neighbour = start(
        &sandbox,
        Kind::OneShot,
        "x = bytearray(100 << 20); print('up', flush=True)\nwhile True: pass",
        120,
    );
    next_stdout(&mut neighbour).await;
    for kind in KINDS {
        let code = "import time\nx = bytearray(40 << 20)\ndel x\nwhile time.process_time() < 0.5: pass\nprint(time.process_time())";
        let code = if kind == Kind::Context {
            code.replace("import time\n", "import time; t = time.process_time()\n")
                .replace("time() < 0.5", "time() < t + 0.5")
        } else {
            code.into()
        };

        let transcript = run_to_end(&sandbox, kind, &code).await;
        let evidence = &transcript.outcome.evidence;
        let peak = evidence.peak_memory_bytes.unwrap() >> 20;
        assert!((40..90).contains(&peak), "{kind:?} {evidence:?}");
        let cpu = evidence.cpu_time_us.unwrap();
        let wall = u64::try_from(transcript.outcome.timing.execute.as_micros()).unwrap();
        assert!(
            cpu >= 400_000 && cpu <= wall + 1_000_000,
            "{kind:?} {cpu} us of {wall}"
        );

        // What waits uses next to nothing, also in a context that has used much before.
        let transcript = run_to_end(&sandbox, kind, "import time; time.sleep(1)").await;
        let cpu = transcript.outcome.evidence.cpu_time_us.unwrap();
        assert!(cpu < 900_000, "{kind:?} {cpu} us");

        // Children count.
        let transcript = run_to_end(
            &sandbox,
            kind,
            "import subprocess; subprocess.run(['python3', '-c', 'x = bytearray(120 << 20)'])",
        )
        .await;
        assert!(
            transcript.outcome.evidence.peak_memory_bytes.unwrap() >> 20 >= 120,
            "{kind:?}"
        );
    }

    neighbour.canceller().cancel();
    let transcript = finish_run(neighbour).await;
    assert!(transcript.outcome.evidence.peak_memory_bytes.unwrap() >> 20 >= 100);
}

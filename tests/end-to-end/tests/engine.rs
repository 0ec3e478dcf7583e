//! The engine as a library: many programs at once in one sandbox.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use fumehood_end_to_end::{finish_run, shell, within_deadline};
use fumehood_engine::{Config, EndedBy, Engine, ErrorKind, Event, Retry, Run, Sandbox};

/// Waits for the end of a run, and returns its standard output.
async fn output(run: Run) -> String {
    let transcript = finish_run(run).await;
    let outcome = &transcript.outcome;
    assert_eq!(outcome.ended_by, EndedBy::Exited, "{outcome:#?}");
    assert_eq!(outcome.stdout.bytes, transcript.stdout.len() as u64);
    transcript.out().to_owned()
}

async fn run_ok(sandbox: &Sandbox, code: &str) -> String {
    output(sandbox.run(&shell(code)).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_programs_share_a_sandbox_without_starvation() {
    let engine = Engine::start(Config::default()).unwrap();
    let sandbox = engine.sandbox().memory_mib(256).await.unwrap();

    // A program whose output is unread does not block others.
    let mut noisy = sandbox.run(&shell("yes")).unwrap();
    noisy.next().await.unwrap();
    assert_eq!(
        run_ok(&sandbox, "echo quiet > file; echo kept").await,
        "kept\n"
    );
    assert_eq!(run_ok(&sandbox, "cat file").await, "quiet\n");

    // When the run is dropped, its program ends in the guest too.
    drop(noisy);
    let gone =
        "for i in $(seq 100); do pgrep -x yes >/dev/null || break; sleep 0.1; done; pgrep -cx yes";
    assert_eq!(run_ok(&sandbox, &format!("{gone} || true")).await, "0\n");

    let runs = (0..10).map(|n| sandbox.run(&shell(format!("echo {n}; exit 0"))).unwrap());
    let runs: Vec<Run> = runs.collect();

    for (n, run) in runs.into_iter().enumerate() {
        assert_eq!(output(run).await, format!("{n}\n"));
    }

    let sleeper = sandbox.run(&shell("sleep 100")).unwrap();
    sleeper.canceller().cancel();
    let outcome = within_deadline("an outcome", sleeper.outcome())
        .await
        .unwrap();
    assert_eq!(
        (outcome.ended_by, outcome.exit_code),
        (EndedBy::Cancelled, Some(130))
    );

    let error = sandbox.run(&shell("").memory_mib(512)).unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Invalid, Retry::Never)
    );
    assert!(sandbox.end().await < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_run_ends_its_vm() {
    let engine = Engine::start(Config::default()).unwrap();
    let mut run = engine.run(shell("echo up; sleep 100")).unwrap();
    assert!(matches!(run.next().await, Some(Event::Ready { .. })));
    assert!(matches!(run.next().await, Some(Event::Stdout(_))));
    let qemus = fumehood_end_to_end::descendants(std::process::id());
    assert!(!qemus.is_empty());
    drop(run);

    // Other tests of this process have VMs too: at least one of these is gone.
    fumehood_end_to_end::wait_until("the end of a dropped run's VM", || {
        qemus.iter().any(|&pid| !fumehood_end_to_end::is_alive(pid))
    });
}

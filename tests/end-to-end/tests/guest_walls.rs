//! A program in a guest that tries to break out, wall by wall, and then exhausts each resource.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use fumehood_end_to_end::{
    finish_ok, finish_run, read_stdout_until, run_in, sandbox, test_program, within_deadline,
};
use fumehood_engine::{EndedBy, Language, Run, RunRequest, Sandbox, SpawnRequest, WriteOptions};
use serde_json::Value;

/// The verdicts that the table of docs/design/isolation.md is made of. `cargo xtask walls` writes them.
const VERDICTS: &str = "../../docs/walls/guest.json";

/// How long others may be kept waiting by a program that takes all there is, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

async fn sandbox_with_probe(memory_mib: u32) -> Sandbox {
    let sandbox = sandbox(memory_mib).await;
    let options = WriteOptions {
        mode: Some(0o755),
        ..WriteOptions::default()
    };

    let program = std::fs::read(test_program("fumehood-guest-probe")).unwrap();
    sandbox
        .files()
        .write_with_options("probe", program, options)
        .await
        .unwrap();

    sandbox
}

fn start_probe(sandbox: &Sandbox, what: &str) -> Run {
    let request = SpawnRequest::new(["./probe", what]).timeout_s(120);
    sandbox.spawn(&request).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_guest_wall_holds() {
    let sandbox = sandbox_with_probe(512).await;
    let transcript = finish_run(
        sandbox
            .spawn(&SpawnRequest::new(["./probe"]).timeout_s(120))
            .unwrap(),
    )
    .await;
    assert_eq!(
        transcript.end(),
        (EndedBy::Exited, Some(0)),
        "{}",
        transcript.err()
    );

    let verdicts: Vec<Value> = transcript
        .out()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();

    let fallen: Vec<_> = verdicts
        .iter()
        .filter(|verdict| verdict["holds"] != true)
        .collect();
    assert!(fallen.is_empty(), "these walls do not hold: {fallen:#?}");
    let written = Path::new(env!("CARGO_MANIFEST_DIR")).join(VERDICTS);
    let written: Vec<Value> = serde_json::from_slice(&std::fs::read(written).unwrap()).unwrap();
    assert_eq!(verdicts, written, "write them anew by `cargo xtask walls`");

    // Its attacks on the agent had no effect.
    assert_healthy(&sandbox).await;
}

/// Checks that an older context, a new program and files work as they should, and without delay.
async fn assert_healthy(sandbox: &Sandbox) {
    let start = Instant::now();
    let witness = sandbox.context("witness", Language::Python);
    let transcript = run_in(&witness, "n = globals().get('n', 0) + 1; print('n', n > 0)").await;
    assert_eq!(
        (transcript.out(), transcript.end()),
        ("n True\n", (EndedBy::Exited, Some(0))),
        "{}",
        transcript.err()
    );

    let echo = RunRequest::new(Language::Shell, "ls / > /dev/null && echo well").timeout_s(60);
    assert_eq!(finish_ok(sandbox.run(&echo).unwrap()).await.0, "well\n");
    sandbox.files().stat("/etc/passwd").await.unwrap();
    assert_eq!(sandbox.ended(), None);
    assert!(
        start.elapsed() < PATIENCE,
        "others were kept waiting for {:?}",
        start.elapsed()
    );
}

/// Cancels the program, and waits for the end of all that it started.
async fn end_program(sandbox: &Sandbox, run: Run) {
    run.canceller().cancel();
    let ended_by = finish_run(run).await.outcome.ended_by;

    // If memory was exhausted, the kernel may have ended it.
    assert!(
        matches!(ended_by, EndedBy::Cancelled | EndedBy::OutOfMemory),
        "{ended_by}"
    );

    let gone = async {
        while sandbox
            .processes()
            .await
            .unwrap()
            .iter()
            .any(|one| one.command.contains("probe"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("the end of all that it started", gone).await;
    assert_healthy(sandbox).await;
}

/// The least memory that a VM may have, and an ordinary one.
const SIZES: [u32; 2] = [96, 512];

/// Checks that a program that takes all of a resource and holds it does not disturb others.
async fn assert_healthy_beside(what: &str) {
    for memory_mib in SIZES {
        let sandbox = sandbox_with_probe(memory_mib).await;
        assert_healthy(&sandbox).await;
        let mut holder = start_probe(&sandbox, what);
        read_stdout_until(&mut holder, "full\n").await;
        assert_healthy(&sandbox).await;
        end_program(&sandbox, holder).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbounded_processes_do_not_disturb_others() {
    assert_healthy_beside("forks").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbounded_memory_does_not_disturb_others() {
    for memory_mib in SIZES {
        let sandbox = sandbox_with_probe(memory_mib).await;
        assert_healthy(&sandbox).await;
        let transcript = finish_run(start_probe(&sandbox, "memory")).await;
        assert_eq!(
            transcript.end(),
            (EndedBy::OutOfMemory, Some(137)),
            "{transcript:?}"
        );

        assert_healthy(&sandbox).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbounded_files_do_not_disturb_others() {
    assert_healthy_beside("disk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbounded_open_files_do_not_disturb_others() {
    assert_healthy_beside("descriptors").await;
}

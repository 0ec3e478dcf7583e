//! Sandboxes that are paused to disk and resumed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fumehood_end_to_end::{engine, repetitions, request_ok, run_ok, shell};
use fumehood_engine::image::{SavedStates, Store, data_ranges};
use fumehood_engine::{
    Engine, ErrorKind, Language, ResumeOptions, RunRequest, Sandbox, SandboxEnd, SavedState,
    SavedStateKind,
};

const NAMES: &str = "cat /etc/machine-id /etc/hostname; uname -n";

fn python(code: &str) -> RunRequest {
    RunRequest::new(Language::Python, code).context("main")
}

async fn python_sandbox(engine: &Engine) -> Sandbox {
    let builder = engine.sandbox().language(Language::Python);
    builder.memory_mib(512).await.unwrap()
}

fn states() -> SavedStates {
    let root = Store::default_root().unwrap();
    Store::open(root).unwrap().saved_states()
}

/// Changes a bit of the last byte of a file that is not in a hole, or changes it back.
fn flip_last_data_byte(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let last = data_ranges(&file).unwrap().last().unwrap().end - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, last).unwrap();
    file.write_all_at(&[byte[0] ^ 1], last).unwrap();
}

async fn find(engine: &Engine, label: &str) -> Option<SavedState> {
    let states = engine.saved_states().await.unwrap();
    states.into_iter().find(|state| state.label == label)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_sandbox_continues_where_it_was_and_only_once() {
    let label = &format!("continues once {}", std::process::id());
    let first = engine();
    let sandbox = python_sandbox(&first).await;
    request_ok(
        &sandbox,
        python("x = bytearray(64 << 20); x[::4096] = b'7' * len(x[::4096]); y = 'kept'"),
    )
    .await;
    request_ok(
        &sandbox,
        shell("echo kept > file; (sleep 1000 & echo $! > pid)").context("shell"),
    )
    .await;
    let name = request_ok(&sandbox, shell(NAMES)).await;

    assert_continues_if_it_cannot_be_paused(&sandbox, &name).await;
    let saved = sandbox.pause(label).await.unwrap();
    assert_eq!(saved.kind, SavedStateKind::Paused);
    assert!(
        saved.disk_bytes > 64 << 20 && saved.disk_bytes < 160 << 20,
        "{saved:?}"
    );
    assert_eq!(saved.programs.count, 1);
    assert_eq!(
        sandbox.ended(),
        Some(SandboxEnd::Paused(saved.id.to_string()))
    );
    let error = sandbox.run(&shell("true")).unwrap_err();
    assert!(error.to_string().contains(saved.id.as_str()), "{error}");

    // Another engine, as after a restart of the program, finds it by its label.
    let second = engine();
    let state = find(&second, label).await.unwrap();
    assert_eq!(state, saved);
    let (one, other) = tokio::join!(
        second.resume(&state.id, ResumeOptions::default()),
        first.resume(&state.id, ResumeOptions::default())
    );
    let (resumed, error) = match (one, other) {
        (Ok(resumed), Err(error)) | (Err(error), Ok(resumed)) => (resumed, error),
        both => panic!("one of two is resumed: {both:?}"),
    };
    assert!(
        matches!(error.kind(), ErrorKind::InUse | ErrorKind::Missing),
        "{error}"
    );
    let error = second
        .resume(&state.id, ResumeOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(find(&second, label).await.is_none());

    // Variables, files, programs and the identity are the same.
    assert_eq!(
        request_ok(
            &resumed,
            python("print(y, sum(x[::4096]) == 55 * (64 << 8))")
        )
        .await,
        "kept True\n"
    );
    assert_eq!(
        request_ok(
            &resumed,
            shell("cat file; kill -0 $(cat pid) && echo lives")
        )
        .await,
        "kept\nlives\n"
    );
    assert_eq!(request_ok(&resumed, shell(NAMES)).await, name);
    assert_eq!(resumed.inherited_programs().unwrap().count, 1);
    let clock = request_ok(&resumed, shell("date +%s")).await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(clock.trim().parse::<u64>().unwrap().abs_diff(now.as_secs()) < 60);

    assert_pauses_again_and_survives_damage(&second, resumed).await;
}

/// While a caller follows a program, or if the state cannot be written.
async fn assert_continues_if_it_cannot_be_paused(sandbox: &Sandbox, name: &str) {
    let label = "never";
    // While a caller follows a program, it cannot be paused, and continues.
    let run = sandbox
        .run(&shell("echo ready; sleep 3; echo end"))
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = sandbox.pause(label).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert_eq!(run.outcome().await.unwrap().exit_code, Some(0));

    // After a failed write, here of a label that is too long, it continues as well.
    let error = sandbox.pause(&"x".repeat(257)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(request_ok(sandbox, shell(NAMES)).await, name);
}

/// The pages on disk are those that differ from the template, also of a sandbox that was resumed.
async fn assert_pauses_again_and_survives_damage(engine: &Engine, resumed: Sandbox) {
    request_ok(&resumed, python("x = None; y += ' twice'")).await;
    let again = resumed.pause("again").await.unwrap();
    assert!(again.disk_bytes < 160 << 20, "{again:?}");
    // A damaged page is refused, and the state stays. QEMU's own pages are not needed.
    let directory = states().path(&again.id);
    let memory = directory.join("memory");
    flip_last_data_byte(&memory);
    let error = engine
        .resume(&again.id, ResumeOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(
        error.to_string().contains(memory.to_str().unwrap()),
        "{error}"
    );
    flip_last_data_byte(&memory);
    let pages = directory.join("process-pages");
    if pages.exists() {
        flip_last_data_byte(&pages);
    }
    let resumed = engine
        .resume(&again.id, ResumeOptions::default())
        .await
        .unwrap();
    assert_eq!(
        request_ok(&resumed, python("print(y)")).await,
        "kept twice\n"
    );
    resumed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_on_disk_starts_any_number_of_sandboxes() {
    let label = &format!("checkpoint {}", std::process::id());
    let engine = engine();
    let sandbox = engine.sandbox().language(Language::Shell).await.unwrap();
    request_ok(&sandbox, shell("echo kept > file")).await;
    let saved = sandbox
        .checkpoint()
        .await
        .unwrap()
        .save(label)
        .await
        .unwrap();
    assert_eq!(saved.kind, SavedStateKind::Checkpoint);
    // A light session.
    assert!(saved.disk_bytes < 40 << 20, "{saved:?}");
    let own_name = request_ok(&sandbox, shell(NAMES)).await;
    sandbox.end().await;

    let checkpoint = engine.load_checkpoint(&saved.id, None).await.unwrap();
    let mut names = vec![own_name];
    for _ in 0..2 {
        let child = engine.open(&checkpoint).await.unwrap();
        assert_eq!(run_ok(&child, Language::Shell, "cat file").await, "kept\n");
        names.push(request_ok(&child, shell(NAMES)).await);
        child.end().await;
    }
    names.dedup();
    assert_eq!(names.len(), 3, "{names:?}");

    assert!(engine.delete_saved_state(&saved.id).await.unwrap());
    assert!(!engine.delete_saved_state(&saved.id).await.unwrap());
    let error = engine.load_checkpoint(&saved.id, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
}

/// Prints how long a pause and a resume take, and how much is on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; see docs/design/saved-states.md"]
async fn measure() {
    let engine = engine();
    for mib in [0_u64, 256] {
        let sandbox = python_sandbox(&engine).await;
        request_ok(&sandbox, python("import json; x = 42")).await;
        let code = format!("import os; y = [os.urandom(1 << 20) for _ in range({mib})]");
        request_ok(&sandbox, python(&code)).await;
        let mut sandbox = sandbox;
        for _ in 0..3 {
            let start = Instant::now();
            let saved = sandbox.pause("measured").await.unwrap();
            let pause = start.elapsed();
            drop(sandbox);
            let start = Instant::now();
            sandbox = engine
                .resume(&saved.id, ResumeOptions::default())
                .await
                .unwrap();
            let resume = start.elapsed();
            assert_eq!(request_ok(&sandbox, python("print(x)")).await, "42\n");
            println!(
                "{mib} MiB: pause {pause:?}, {} MiB on disk, resume {resume:?}, answer {:?}",
                saved.disk_bytes >> 20,
                start.elapsed()
            );
        }
        sandbox.end().await;
    }
}

/// Marks the process that is killed; the value is the label of its states.
const VICTIM: &str = "FUMEHOOD_TEST_PAUSES";

fn report(what: &str) {
    let mut out = std::io::stdout();
    out.write_all(format!("\n{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Resumes the saved sandbox, or starts one; counts in it, and pauses it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test"]
async fn pauses_and_resumes_in_a_loop() {
    let Ok(label) = std::env::var(VICTIM) else {
        return;
    };
    let engine = engine();
    // The bound ends the loop if the parent did not.
    for _ in 0..1000 {
        let sandbox = match find(&engine, &label).await {
            Some(state) => {
                report(&format!("resuming {}", state.id));
                let resumed = engine.resume(&state.id, ResumeOptions::default()).await;
                let resumed = resumed.unwrap();
                report(&format!("resumed {}", state.id));
                resumed
            }
            None => {
                let sandbox = engine.sandbox().language(Language::Shell).await.unwrap();
                request_ok(&sandbox, shell("echo 0 > count")).await;
                sandbox
            }
        };
        let count = "n=$(cat count); echo $((n + 1)) > count; cat count";
        let count = request_ok(&sandbox, shell(count)).await;
        let saved = sandbox.pause(&label).await.unwrap();
        report(&format!("paused {} {}", saved.id, count.trim()));
    }
}

/// A process is killed at any moment of pauses and resumes: every acknowledged state is complete, and none is resumed twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_no_acknowledged_sandbox() {
    let label = format!("killed {}", std::process::id());
    let kills = repetitions("FUMEHOOD_PAUSE_KILLS", 6, 100);
    let engine = engine();
    let (mut resumed, mut pauses) = (BTreeSet::new(), 0);

    for n in 0..kills {
        // These moments differ; most are within a pause or a resume.
        let time = Duration::from_millis(37 * (n as u64 % 17));
        let (mut acknowledged, mut perhaps) = (None, None);
        for line in killed_after(&label, time) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["paused", id, count] => {
                    acknowledged = Some((id.to_owned(), count.to_owned()));
                    pauses += 1;
                }
                ["resuming", id] => perhaps = Some(id.to_owned()),
                ["resumed", id] => {
                    assert!(
                        resumed.insert(id.to_owned()),
                        "kill {n}: {id} was resumed twice"
                    );
                    acknowledged = None;
                }
                _ => {}
            }
        }

        let there = find(&engine, &label).await;
        if let Some((id, count)) = acknowledged {
            match &there {
                Some(state) if state.id.as_str() == id => {
                    let sandbox = engine
                        .resume(&state.id, ResumeOptions::default())
                        .await
                        .unwrap();
                    let kept = request_ok(&sandbox, shell("cat count")).await;
                    assert_eq!(kept.trim(), count, "kill {n}");
                    resumed.insert(id);
                    sandbox.pause(&label).await.unwrap();
                }
                _ => assert_eq!(
                    perhaps,
                    Some(id),
                    "kill {n}: an acknowledged state was lost"
                ),
            }
        }
    }

    assert!(
        pauses > 0 && !resumed.is_empty(),
        "{pauses} pauses, {resumed:?}"
    );
    for state in engine.saved_states().await.unwrap() {
        if state.label == label {
            assert!(engine.delete_saved_state(&state.id).await.unwrap());
        }
    }
}

/// Runs the loop, kills it some time after its first pause, and returns its output.
fn killed_after(label: &str, time: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "pauses_and_resumes_in_a_loop",
        ])
        .env(VICTIM, label)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = Vec::new();
    for line in output.by_ref().map_while(Result::ok) {
        let is_first = line.starts_with("paused ");
        lines.push(line);
        if is_first {
            break;
        }
    }
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.extend(output.map_while(Result::ok));
    lines
}

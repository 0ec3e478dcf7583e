//! VMs that continue from a saved QEMU process: by which requests, as whom, and what remains afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fumehood_end_to_end::own_store::{BUILD, OwnStore, RUN, files_below, finish_ok, says_hi};
use fumehood_end_to_end::{
    descendants, engine, fumehood, is_alive, is_long, json, request_ok, send, shell, shell_ok,
    status, wait_until,
};
use fumehood_engine::image::Store;
use fumehood_engine::{Language, RunRequest, Sandbox, VmOrigin};
use rustix::process::Signal;
/// Whether the QEMU of a sandbox continued from a process image: it was never executed.
fn is_continued(sandbox: &Sandbox) -> bool {
    let executed = std::fs::read_link(format!("/proc/{}/exe", sandbox.process_id())).unwrap();
    executed.ends_with("fumehood-launcher")
}

async fn python_sandbox() -> Sandbox {
    let sandbox = engine().sandbox().language(Language::Python).await.unwrap();
    assert_eq!(sandbox.source(), VmOrigin::HotImage);
    assert!(is_continued(&sandbox));
    sandbox
}

fn python(code: &str) -> RunRequest {
    RunRequest::new(Language::Python, code).context("main")
}

#[test]
fn programs_of_each_language_run_from_hot_images() {
    let programs = [
        (
            "python",
            "import sys; print('out', __file__[-7:]); print('err', file=sys.stderr); sys.exit(3)",
            "out main.py\n",
        ),
        (
            "javascript",
            "console.log('out', import.meta.file); console.error('err'); process.exit(3)",
            "out main.ts\n",
        ),
        (
            "shell",
            "echo out $0; echo err >&2; exit 3",
            "out main.sh\n",
        ),
    ];

    for (language, code, stdout) in programs {
        let (outcome, exit_code) = json(language, code, &[]);
        assert_eq!(outcome["source"], "hot_image", "{outcome}");
        assert_eq!(
            (&outcome["stdout"], &outcome["stderr"], exit_code),
            (&stdout.into(), &"err\n".into(), 3),
            "{outcome}"
        );
    }
}

/// Threads, child processes, timers, files, a mapping larger than the guest has touched before, signals, and the interpreter that
/// starts after the first one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continued_guest_does_everything() {
    let sandbox = python_sandbox().await;
    let code = "
import hashlib, mmap, os, signal, subprocess, tempfile, threading, time
threads = [threading.Thread(target=lambda: hashlib.sha256(bytes(1 << 20)).hexdigest()) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(subprocess.run(['sh', '-c', 'echo child | tr a-z A-Z'], capture_output=True, text=True).stdout.strip())
memory = mmap.mmap(-1, 128 << 20)
for page in range(0, 128 << 20, 4096): memory[page] = 7
print(sum(memory[page] for page in range(0, 128 << 20, 4096)))
with tempfile.TemporaryFile() as file:
    file.write(b'x' * (8 << 20)); file.seek(0); print(len(file.read()))
alarms = []
signal.signal(signal.SIGALRM, lambda *_: alarms.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05)
start = time.monotonic()
while not alarms and time.monotonic() - start < 30: time.sleep(0.01)
print(len(alarms), time.monotonic() - start < 30)
";
    let request = || RunRequest::new(Language::Python, code);
    for _ in 0..2 {
        let text = request_ok(&sandbox, request()).await;
        assert_eq!(text, "CHILD\n229376\n8388608\n1 True\n");
    }
}

#[test]
fn an_ordinary_user_has_images_of_its_own_of_any_memory_size() {
    let store = OwnStore::new();
    if rustix::process::geteuid().is_root() {
        let mut chown = Command::new("chown");
        chown.args(["-R", "65534:65534"]).arg(store.path());
        finish_ok(chown);
    }

    let size = ["-m", "192"];
    finish_ok(store.unprivileged_command(&[&BUILD[..], &size].concat()));
    let outcome = says_hi(store.unprivileged_command(&[&RUN[..], &size].concat()));
    assert_eq!(outcome["source"], "hot_image", "{outcome}");

    // Nobody else may read what guests have in memory.
    use std::os::unix::fs::PermissionsExt;
    let shelf = store.path().join("hot-images");
    let mode = shelf.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");

    // Other memory has no image, and gets no other's.
    let other = says_hi(store.unprivileged_command(&RUN));
    assert_eq!(other["source"], "boot", "{other}");
}

/// Six generations, each a fork of the last one, whose image refers to the files of those before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_generation_of_forks_continues_from_process_images() {
    const GENERATIONS: usize = 6;
    let first = python_sandbox().await;
    request_ok(
        &first,
        python("history = [0]; big = bytes(range(256)) * 8192"),
    )
    .await;

    let mut family = vec![first];
    for generation in 1..=GENERATIONS {
        let child = family.last().unwrap().fork(1).await.unwrap().remove(0);
        assert_eq!(child.source(), VmOrigin::Checkpoint);
        assert!(is_continued(&child), "generation {generation}");
        let code = format!("history.append({generation}); print(history[-1])");
        assert_eq!(
            request_ok(&child, python(&code)).await,
            format!("{generation}\n")
        );
        family.push(child);
    }

    // Each has its own past, and all differ in what they draw.
    let mut drawn = Vec::new();
    for (generation, member) in family.iter().enumerate() {
        let code =
            "import os; print(history, big == bytes(range(256)) * 8192, os.urandom(8).hex())";
        let text = request_ok(member, python(code)).await;
        let (state, random) = text.trim().rsplit_once(' ').unwrap();
        let history: Vec<usize> = (0..=generation).collect();
        assert_eq!(state, format!("{history:?} True"));
        assert!(!drawn.contains(&random.to_owned()), "{drawn:?}");
        drawn.push(random.to_owned());
    }
}

/// Returns the number of lines of a file that a program in the background writes.
async fn ticks(sandbox: &Sandbox) -> usize {
    let text = shell_ok(sandbox, "wc -l < ticks").await;
    text.trim().parse().unwrap()
}

/// Waits until a program in the background has written more lines.
async fn assert_ticks(sandbox: &Sandbox) {
    let (start, before) = (Instant::now(), ticks(sandbox).await);
    while ticks(sandbox).await < before + 3 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "time stands still"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_continues_as_if_it_had_not_been_forked() {
    let parent = python_sandbox().await;
    request_ok(&parent, python("state = {'n': 1}")).await;
    let clock = "touch ticks; (while sleep 0.05; do echo tick >> ticks; done) > /dev/null 2>&1 &";
    let clock = RunRequest::new(Language::Shell, clock).context("clock");
    request_ok(&parent, clock).await;
    assert_ticks(&parent).await;

    // Twice: the second image of a process whose calls were interrupted by the first one.
    for n in 1..=2 {
        let children = parent.fork(2).await.unwrap();
        for child in &children {
            assert!(is_continued(child));
            assert_ticks(child).await;
            let code = "state['n'] += 100; print(state)";
            let text = request_ok(child, python(code)).await;
            assert_eq!(text, format!("{{'n': {}}}\n", n + 100));
        }

        assert_ticks(&parent).await;
        let text = request_ok(&parent, python("state['n'] += 1; print(state)")).await;
        assert_eq!(text, format!("{{'n': {}}}\n", n + 1));
        let timer = "import time; start = time.monotonic(); time.sleep(0.3); print(0.3 <= time.monotonic() - start < 20)";
        assert_eq!(request_ok(&parent, python(timer)).await, "True\n");
    }

    let pid = parent.process_id();
    assert_eq!(status(pid, "TracerPid").unwrap(), "0");
    assert!(!status(pid, "State").unwrap().starts_with(['t', 'T']));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_outlive_their_sandbox_and_their_image() {
    let engine = engine();
    let sandbox = engine.sandbox().language(Language::Python).await.unwrap();
    request_ok(&sandbox, python("x = 41")).await;
    let checkpoint = sandbox.checkpoint().await.unwrap();
    sandbox.end().await;

    for _ in 0..3 {
        let opened = engine.open(&checkpoint).await.unwrap();
        assert!(is_continued(&opened));
        assert_eq!(
            request_ok(&opened, python("x += 1; print(x)")).await,
            "42\n"
        );
        // An ordinary program, in an interpreter of its own.
        assert_eq!(request_ok(&opened, shell("echo on")).await, "on\n");
    }
    assert_eq!(engine.vm_stats().failed_restores, 0);
}

/// The QEMUs of a build.
fn start_build(store: &OwnStore) -> Child {
    let mut command = store.command(&BUILD);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The owner is killed at several moments, also while QEMU is stopped by `ptrace`.
#[test]
fn a_killed_build_leaves_no_process_and_no_image() {
    let store = OwnStore::new();
    store.build(&[]);
    let [image] = &store.images()[..] else {
        panic!("one image was expected: {:?}", store.images());
    };
    let image = image.parent().unwrap().to_owned();

    // A build without a kill, to know how long one takes: from the template, which exists.
    std::fs::remove_dir_all(&image).unwrap();
    let start = Instant::now();
    store.build(&[]);
    let whole = start.elapsed();

    let moments = if is_long() { 16 } else { 5 };
    for moment in 0..moments {
        std::fs::remove_dir_all(&image).unwrap();
        let mut child = start_build(&store);
        let mut qemus = Vec::new();
        let (start, deadline) = (Instant::now(), whole * moment / (moments - 1));
        while start.elapsed() < deadline {
            qemus.extend(descendants(child.id()));
            std::thread::sleep(Duration::from_millis(2));
        }
        qemus.extend(descendants(child.id()));
        let has_ended = child.try_wait().unwrap().is_some();
        if !has_ended {
            send(child.id(), Signal::KILL);
            child.wait().unwrap();
        }

        wait_until("the end of QEMU", || {
            !qemus.iter().any(|&pid| is_alive(pid))
        });

        // The next command sweeps, and the image is complete or does not exist.
        let outcome = says_hi(store.command(&RUN));
        let source = outcome["source"].as_str().unwrap();
        let expected = match store.images().len() {
            0 => "template",
            _ => "hot_image",
        };
        assert_eq!(source, expected, "killed at moment {moment}");
        store.build(&[]);
        assert_eq!(store.images().len(), 1, "{:?}", store.images());
        let left = files_below(&store.path().join("tmp"));
        assert!(left.is_empty(), "{left:?}");
    }

    let outcome = says_hi(store.command(&RUN));
    assert_eq!(outcome["source"], "hot_image");
}

/// The images of the store that all tests use are private to its owner.
#[test]
fn images_are_readable_only_by_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let mut command = fumehood();
    command.args(RUN);
    let _ = says_hi(command);
    let shelf = Store::default_root().unwrap().join("hot-images");
    let mode = shelf.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

//! Many mixed operations in many sandboxes: no memory, descriptors, threads or files accumulate, on either side.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use fumehood_end_to_end::{is_long, repetitions};
use fumehood_engine::{
    Config, Engine, Event, Language, Outcome, Run, RunRequest, Sandbox, SpawnRequest,
};
use futures_util::future::join_all;

/// Sandboxes that work at the same time: few in CI, so that each does much.
const SANDBOXES: usize = 5;
/// Operations in all, unless `FUMEHOOD_SOAK_OPS` gives another number.
const OPERATIONS: usize = 400;
/// The same for `cargo xtask test --long`: as many as the design asks for.
const LONG_SANDBOXES: usize = 10;
const LONG_OPERATIONS: usize = 2000;
/// Operations in each sandbox after which each kind has occurred and each file exists: from then on nothing may grow.
const WARM_UP: usize = 36;
/// Growth in KiB that is allowed for the [`MEASURED`] operations after the warm-up: of an agent, and of this process. It
/// shrinks with fewer operations, but not below a quarter, which is what allocators vary by.
const GROWTH_KIB: [u64; 2] = [2048, 8192];
/// The operations that a long run makes after its warm-up.
const MEASURED: u64 = 1200;
/// Time for one operation while ten sandboxes work on two cores under emulation.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Count {
    descriptors: usize,
    threads: usize,
    memory_kib: u64,
}

fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.and_then(|figure| figure.parse().ok()).unwrap_or(0)
}

fn entries(path: &str) -> usize {
    std::fs::read_dir(path).map_or(0, Iterator::count)
}

/// Counts what this process, or a QEMU, holds.
fn host(pid: u32) -> Count {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    Count {
        descriptors: entries(&format!("/proc/{pid}/fd")),
        threads: entries(&format!("/proc/{pid}/task")),
        memory_kib: kib(&status, "RssAnon:"),
    }
}

async fn ended(mut run: Run) -> (String, Outcome) {
    let mut text = Vec::new();
    let all = async {
        while let Some(event) = run.next().await {
            if let Event::Stdout(bytes) = event {
                text.extend_from_slice(&bytes);
            }
        }
        run.outcome().await.unwrap()
    };

    let outcome = tokio::time::timeout(DEADLINE, all).await.unwrap();

    (String::from_utf8(text).unwrap(), outcome)
}

/// Counts what a guest holds, as its root sees it: the agent's memory and descriptors, processes except the kernel's,
/// cgroups, files in the home directory.
async fn guest(sandbox: &Sandbox) -> [u64; 5] {
    let code = "grep VmRSS /proc/1/status | tr -dc '0-9\\n'; ls /proc/1/fd | wc -l; grep -l . /proc/[0-9]*/cmdline | wc -l; \
                ls -d /sys/fs/cgroup/fumehood/op-* | wc -l; ls -A /home/user | wc -l";
    let request = SpawnRequest::new(["sh", "-c", code]).root();
    let (text, _) = ended(sandbox.spawn(&request).unwrap()).await;
    let figures: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    figures.try_into().unwrap()
}

/// Does one operation, of the kind that `n` selects.
async fn operate(sandbox: &Sandbox, n: usize) {
    let files = sandbox.files();
    match n % 12 {
        0..=2 => {
            let language = Language::ALL[n % 3];
            let code = match language {
                Language::Python => "n = globals().get('n', 0) + 1; print('ok')",
                Language::Javascript => "var n = (globalThis.n ?? 0) + 1; console.log('ok')",
                Language::Shell => "n=$((n + 1)); echo ok",
            };

            let run = sandbox
                .context(language.as_str(), language)
                .run(code)
                .unwrap();
            assert_eq!(ended(run).await.0, "ok\n");
        }
        3 => {
            let run = sandbox
                .run(&RunRequest::new(Language::Shell, "echo once"))
                .unwrap();
            assert_eq!(ended(run).await.0, "once\n");
        }
        4 | 5 => {
            let bytes = vec![n.to_le_bytes()[0]; n * 7919 % 200_000];
            let path = format!("file-{}", n % 5);
            files.write(&path, bytes.clone()).await.unwrap();
            assert!(files.read(&path).await.unwrap() == bytes);
        }
        6 => {
            files.write("seen", "x").await.unwrap();
            assert_eq!(files.stat("seen").await.unwrap().size, 1);
            assert!(!files.list(".").await.unwrap().is_empty());
        }
        7 => {
            let run = sandbox.spawn(&SpawnRequest::new(["cat"]).stdin()).unwrap();
            let mut input = run.input();
            input.write("through").await.unwrap();
            input.close().await;
            assert_eq!(ended(run).await.0, "through");
        }
        8 => {
            // A key each: of few, and of little output.
            let key = format!("key-{n}");
            let request = SpawnRequest::new(["echo", "kept"]).idempotency_key(&key);
            sandbox.spawn(&request).unwrap().detach().await.unwrap();
            assert_eq!(ended(sandbox.attach(&key, 0).unwrap()).await.0, "kept\n");
        }
        9 => {
            let run = sandbox.spawn(&SpawnRequest::new(["sleep", "60"])).unwrap();
            run.canceller().cancel();
            ended(run).await;
        }
        10 => drop(
            sandbox
                .run(&RunRequest::new(Language::Shell, "sleep 60"))
                .unwrap(),
        ),
        _ => {
            let mut watcher = files.watch(".", false).await.unwrap();
            files.write("watched", "x").await.unwrap();
            let change = tokio::time::timeout(DEADLINE, watcher.next()).await;
            change.unwrap().unwrap().unwrap();
        }
    }
}

async fn work(sandboxes: &[Sandbox], from: usize, to: usize) {
    let count = sandboxes.len();
    let mut tasks = tokio::task::JoinSet::new();
    for (at, sandbox) in sandboxes.iter().enumerate() {
        let sandbox = sandbox.clone();
        tasks.spawn(async move {
            for n in (from..to).filter(|n| n % count == at) {
                // Each sandbox gets each kind.
                operate(&sandbox, n / count + at).await;
            }
        });
    }

    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_use_does_not_grow() {
    let operations = repetitions("FUMEHOOD_SOAK_OPS", OPERATIONS, LONG_OPERATIONS);
    let count = if is_long() { LONG_SANDBOXES } else { SANDBOXES };
    let engine = Engine::start(Config::default()).unwrap();
    let mut sandboxes = Vec::new();

    for _ in 0..count {
        let sandbox = engine.sandbox().memory_mib(512).allow_root().await.unwrap();
        sandboxes.push(sandbox);
    }

    let start = Instant::now();

    // First-time allocations do not count as growth.
    let warm = (operations * 2 / 5).max(WARM_UP * count);
    assert!(
        operations > warm,
        "{operations} operations are only the warm-up; at least {} are needed",
        warm + 1
    );
    let measured = (operations - warm) as u64;
    let [agent_growth, own_growth] = GROWTH_KIB.map(|kib| (kib * measured / MEASURED).max(kib / 4));

    work(&sandboxes, 0, warm).await;
    let guests = join_all(sandboxes.iter().map(guest)).await;
    let qemus: Vec<_> = sandboxes.iter().map(|s| host(s.process_id())).collect();
    let own = host(std::process::id());

    work(&sandboxes, warm, operations).await;
    eprintln!("{operations} operations in {:?}", start.elapsed());

    for (sandbox, before) in sandboxes.iter().zip(guests) {
        // Those that were cancelled last may still be dying.
        let start = Instant::now();
        let mut after = guest(sandbox).await;
        let grew = |after: [u64; 5]| (1..5).any(|at| after[at] > before[at]);

        while grew(after) && start.elapsed() < DEADLINE {
            after = guest(sandbox).await;
        }

        assert!(!grew(after), "{before:?} became {after:?}");
        assert!(
            after[0] < before[0] + agent_growth,
            "the agent's memory, in KiB: {before:?} {after:?}"
        );
    }

    for (sandbox, before) in sandboxes.iter().zip(qemus) {
        let after = host(sandbox.process_id());
        assert!(
            after.descriptors <= before.descriptors,
            "{before:?} {after:?}"
        );
    }

    let after = host(std::process::id());
    assert!(after.descriptors <= own.descriptors, "{own:?} {after:?}");
    assert!(after.threads <= own.threads, "{own:?} {after:?}");
    assert!(
        after.memory_kib < own.memory_kib + own_growth,
        "{own:?} {after:?}"
    );
}

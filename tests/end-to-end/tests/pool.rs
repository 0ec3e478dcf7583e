//! Pools of VMs that are kept ready.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use fumehood_end_to_end::{DEADLINE, descendants, is_alive, repetitions, send, wait_until};
use fumehood_engine::{
    Config, EndedBy, Engine, Language, Outcome, Pool, RunRequest, TemplateUse, VmOrigin,
};
use rustix::process::Signal;

/// Starts an engine whose templates exist: that of the shell, which serves sandboxes, and those of these languages.
async fn engine(hot: usize, standby: usize, languages: &[Language]) -> Engine {
    let pool = Pool {
        warm_vms: hot,
        standby_processes: standby,
        languages: languages.to_vec(),
        ..Pool::default()
    };
    let builder = Engine::start(Config::default()).unwrap();
    for language in [Language::Shell].iter().chain(languages) {
        let memory_mib = RunRequest::DEFAULT_MEMORY_MIB;
        builder.build_template(*language, memory_mib).await.unwrap();
    }

    Engine::start(Config {
        templates: TemplateUse::Use,
        pool,
        ..Config::default()
    })
    .unwrap()
}

/// The hot VMs and standby processes that are ready.
fn status(engine: &Engine) -> (usize, usize) {
    let status = engine.pool_status();
    (status.warm, status.standby)
}

async fn wait_until_ready(engine: &Engine, wanted: (usize, usize)) {
    let start = Instant::now();
    while status(engine) != wanted {
        assert!(
            start.elapsed() < DEADLINE,
            "the pool does not fill: {:?}",
            engine.pool_status()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn outcome(engine: &Engine, request: RunRequest) -> Outcome {
    let run = engine.run(request.timeout_s(120)).unwrap();
    let outcome = tokio::time::timeout(DEADLINE, run.outcome())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (outcome.exit_code, outcome.ended_by),
        (Some(0), EndedBy::Exited),
        "{outcome:?}"
    );

    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_use_ready_vms_that_fit() {
    let engine = engine(1, 1, &[Language::Python]).await;
    wait_until_ready(&engine, (1, 1)).await;
    let python = |code: &str| RunRequest::new(Language::Python, code);

    // Other memory (of which no other test makes a template), another language: neither the hot nor the blank one fits.
    let memory = "assert 225 < int(open('/proc/meminfo').read().split()[1]) / 1024 < 251";
    let source = outcome(&engine, python(memory).memory_mib(251))
        .await
        .source;
    assert_eq!(source, VmOrigin::Boot);
    let raw = RunRequest::new(Language::Shell, "echo hi");
    assert_eq!(outcome(&engine, raw).await.source, VmOrigin::Template);
    assert_eq!(status(&engine), (1, 1));

    assert_eq!(
        outcome(&engine, python("print(1)")).await.source,
        VmOrigin::Hot
    );

    // The next one takes the blank, unless the hot one is there again; all are used once.
    let next = outcome(
        &engine,
        python("import os; assert not os.path.exists('/tmp/mark'); open('/tmp/mark', 'w')"),
    )
    .await;
    assert!(
        [VmOrigin::Hot, VmOrigin::Standby].contains(&next.source),
        "{next:?}"
    );
    wait_until_ready(&engine, (1, 1)).await;
    let third = python("import os; assert not os.path.exists('/tmp/mark')");
    assert_eq!(outcome(&engine, third).await.source, VmOrigin::Hot);
    let counts = engine.vm_stats();
    assert_eq!((counts.failed_restores, counts.discarded_templates), (0, 0));
    assert_eq!((counts.boot, counts.template), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primer_leaves_nothing_behind() {
    let engine = engine(1, 0, &Language::ALL).await;
    wait_until_ready(&engine, (3, 0)).await;
    let python = "
import os, threading
assert sorted(k for k in globals() if not k.startswith('__')) == ['os', 'threading'], globals().keys()
assert __name__ == '__main__' and threading.active_count() == 1
assert 'PRIMED' not in os.environ, os.environ
assert os.listdir('/tmp') == [] and sorted(os.listdir()) == ['.local', 'main.py'], os.listdir()
";
    assert_eq!(
        outcome(&engine, RunRequest::new(Language::Python, python))
            .await
            .source,
        VmOrigin::Hot
    );
    let javascript = "
import { readdirSync } from 'node:fs';
if (process.env.PRIMED !== undefined || readdirSync('/tmp').length) throw new Error('left behind');
for (const name of ['fibonacci', 'work', 'Stack']) if (name in globalThis) throw new Error(name);
";
    assert_eq!(
        outcome(&engine, RunRequest::new(Language::Javascript, javascript))
            .await
            .source,
        VmOrigin::Hot
    );
    let shell = "[[ -z ${PRIMED+x} && -z ${words+x} && $(type -t count) == '' && -z $(ls -A /tmp) && $(ls -A ~ | grep -vx main.sh) == .local ]]";
    assert_eq!(
        outcome(&engine, RunRequest::new(Language::Shell, shell))
            .await
            .source,
        VmOrigin::Hot
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_times_out_is_replaced_and_counted() {
    // The template must exist.
    drop(engine(0, 0, &[]).await);
    let engine = Engine::start(Config {
        templates: TemplateUse::Use,
        restore_deadline: Duration::from_micros(1),
        ..Config::default()
    })
    .unwrap();

    let outcome = outcome(&engine, RunRequest::new(Language::Shell, "echo hi")).await;
    assert_eq!(outcome.source, VmOrigin::Boot);
    assert_eq!(engine.vm_stats().failed_restores, 2);
}

/// Restores in a row, unless `FUMEHOOD_RESTORES` gives another number.
const RESTORES: usize = 60;
/// Restores in a row for `cargo xtask test --long`: as many as the design asks for.
const LONG_RESTORES: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_restores_all_succeed() {
    let restores = repetitions("FUMEHOOD_RESTORES", RESTORES, LONG_RESTORES);
    let engine = engine(0, 0, &[]).await;

    for _ in 0..restores {
        let sandbox = engine.sandbox().memory_mib(512).await.unwrap();
        assert_eq!(sandbox.source(), VmOrigin::Template);
    }

    let counts = engine.vm_stats();
    let restores = u64::try_from(restores).unwrap();
    assert_eq!((counts.template, counts.failed_restores), (restores, 0));
}

/// Ten at once, several times: all succeed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_runs_all_succeed() {
    let engine = engine(0, 2, &[Language::Python]).await;
    for _ in 0..3 {
        let mut runs = tokio::task::JoinSet::new();
        for n in 0..10 {
            let engine = engine.clone();
            runs.spawn(async move {
                outcome(
                    &engine,
                    RunRequest::new(Language::Python, format!("print({n})")),
                )
                .await
            });
        }

        while let Some(done) = runs.join_next().await {
            assert!([VmOrigin::Standby, VmOrigin::Template].contains(&done.unwrap().source));
        }
    }

    assert_eq!(engine.vm_stats().failed_restores, 0);
}

/// Starts a program that keeps a pool, and returns it with its QEMUs.
fn start_owner() -> (Child, BufReader<ChildStdout>, Vec<u32>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pool-owner"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let mut lines = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(read_line(&mut lines), "ready");
    let qemus = descendants(child.id());
    assert_eq!(qemus.len(), 3, "{qemus:?}");

    (child, lines, qemus)
}

/// Reads a line of the owner, which ends itself if its pool does not fill.
fn read_line(lines: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn the_pool_dies_with_its_owner() {
    let (mut child, _lines, qemus) = start_owner();
    send(child.id(), Signal::KILL);
    child.wait().unwrap();
    wait_until("the end of the pool", || {
        !qemus.iter().any(|&pid| is_alive(pid))
    });
}

/// Moments after a start at which an owner is killed: QEMUs are started, restored, primed, saved then.
const MOMENTS_MS: [u64; 8] = [0, 15, 40, 70, 110, 170, 260, 400];

/// Kills a program after so long, and waits until the QEMUs that it had are gone.
fn kill_after(mut child: Child, moment: Duration) {
    std::thread::sleep(moment);
    // What stands still starts no further ones.
    send(child.id(), Signal::STOP);
    wait_until("it stands still", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    });

    let qemus = descendants(child.id());
    send(child.id(), Signal::KILL);
    child.wait().unwrap();
    wait_until("the end of what it had started", || {
        !qemus.iter().any(|&pid| is_alive(pid))
    });
}

#[test]
fn an_owner_killed_while_filling_its_pool_leaves_nothing() {
    for moment in MOMENTS_MS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pool-owner"));
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        kill_after(command.spawn().unwrap(), Duration::from_millis(moment));
    }
}

#[test]
fn an_owner_killed_while_forking_leaves_nothing() {
    for moment in MOMENTS_MS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pool-owner"));
        command
            .arg("forks")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());

        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(read_line(&mut lines), "ready");
        kill_after(child, Duration::from_millis(moment));
    }
}

/// VMs that died in the pool are not handed out.
#[test]
fn dead_pooled_vms_are_not_used() {
    let (mut child, mut lines, qemus) = start_owner();
    for &pid in &qemus {
        send(pid, Signal::KILL);
    }

    wait_until("the end of the pool", || {
        !qemus.iter().any(|&pid| is_alive(pid))
    });
    child.stdin.take().unwrap().write_all(b"run\n").unwrap();
    let source = read_line(&mut lines);
    assert!(
        ["template", "hot", "standby"].contains(&source.as_str()),
        "{source}"
    );
    assert!(child.wait().unwrap().success());
}

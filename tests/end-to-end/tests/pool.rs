//! How VMs become ready: by hot images, templates and hot VMs; and that they end with their owner.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use fumehood_end_to_end::unprivileged::copy_store;
use fumehood_end_to_end::{
    DEADLINE, descendants, finish, fumehood, is_alive, is_restored, repetitions, send, wait_until,
};
use fumehood_engine::image::Store;
use fumehood_engine::{
    Accelerator, Config, EndedBy, Engine, Language, Outcome, Pool, RunRequest, TemplateUse,
    VmOrigin,
};
use rustix::process::Signal;
use serde_json::Value;

/// Starts an engine whose templates and hot images exist: those of the shell, which serves sandboxes, and those of these
/// languages.
async fn engine(are_hot_images_used: bool, languages: &[Language]) -> Engine {
    let builder = Engine::start(Config::default()).unwrap();
    for language in [Language::Shell].iter().chain(languages) {
        let memory_mib = RunRequest::DEFAULT_MEMORY_MIB;
        builder.build_template(*language, memory_mib).await.unwrap();
    }

    Engine::start(Config {
        templates: TemplateUse::Use,
        hot_images: are_hot_images_used,
        ..Config::default()
    })
    .unwrap()
}

/// Waits until the store of this engine has so many hot images.
async fn wait_for_images(engine: &Engine, wanted: usize) {
    let start = Instant::now();
    while engine.hot_images().images != wanted {
        assert!(
            start.elapsed() < DEADLINE,
            "{:?}, {:?}",
            engine.hot_images(),
            engine.vm_stats()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
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
async fn requests_use_images_that_fit() {
    let engine = engine(true, &[Language::Python]).await;
    let python = |code: &str| RunRequest::new(Language::Python, code);

    // Other memory, of which no other test makes a template.
    let memory = "assert 225 < int(open('/proc/meminfo').read().split()[1]) / 1024 < 251";
    let booted = outcome(&engine, python(memory).memory_mib(251)).await;
    assert_eq!(booted.source, VmOrigin::Boot);
    let shell = outcome(&engine, RunRequest::new(Language::Shell, "echo hi")).await;
    assert!(is_restored(shell.source.as_str()), "{shell:?}");

    // What one VM changes, the next one does not see.
    let code = "import os; assert not os.path.exists('/tmp/mark'); open('/tmp/mark', 'w')";
    for _ in 0..2 {
        let changed = outcome(&engine, python(code)).await;
        assert_eq!(changed.source, shell.source);
    }

    let counts = engine.vm_stats();
    assert_eq!(
        (counts.failed_restores, counts.failed_continuations),
        (0, 0)
    );
    assert_eq!((counts.boot, counts.template + counts.hot_image), (1, 3));
    assert!(engine.missing_hot_images().is_empty());
}

/// Without a pool, images are created after the first request; with one, before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_images_are_created_in_the_background() {
    if self::engine(true, &[]).await.accelerator() != Accelerator::Tcg {
        return;
    }
    let store = copy_store();
    let engine = |pool| {
        Engine::start(Config {
            store: Some(store.path().to_owned()),
            pool,
            ..Config::default()
        })
        .unwrap()
    };
    let request = || RunRequest::new(Language::Shell, "echo hi").memory_mib(200);

    let requested = engine(Pool::default());
    assert_eq!(outcome(&requested, request()).await.source, VmOrigin::Boot);
    wait_for_images(&requested, 1).await;
    let hot = outcome(&requested, request()).await;
    assert_eq!(hot.source, VmOrigin::HotImage);
    drop(requested);

    // After a restart of the host, the template exists and the image does not.
    let images = Store::open(store.path()).unwrap().hot_images();
    images.remove_all().unwrap();
    let restarted = engine(Pool::default());
    let restored = outcome(&restarted, request()).await;
    assert_eq!(restored.source, VmOrigin::Template);
    wait_for_images(&restarted, 1).await;
    drop(restarted);

    let prepared = engine(Pool {
        warm_vms: 1,
        languages: vec![Language::Shell],
        memory_mib: 200,
    });
    // With a network card and without one.
    wait_for_images(&prepared, 2).await;
    assert_eq!(
        outcome(&prepared, request()).await.source,
        VmOrigin::HotImage
    );
    let counts = prepared.vm_stats();
    assert_eq!((counts.hot_image, counts.failed_hot_images), (1, 0));
    assert_eq!(prepared.pool_status().warm, 0, "a VM waits");
}

/// With KVM, the pool has hot VMs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_use_hot_vms_with_kvm() {
    let languages = vec![Language::Python];
    if engine(true, &languages).await.accelerator() != Accelerator::Kvm {
        return;
    }
    let pool = Pool {
        warm_vms: 1,
        languages,
        ..Pool::default()
    };
    let engine = Engine::start(Config {
        templates: TemplateUse::Use,
        pool,
        ..Config::default()
    })
    .unwrap();

    let code = "import os; assert not os.path.exists('/tmp/mark'); open('/tmp/mark', 'w')";
    for _ in 0..2 {
        while engine.pool_status().warm != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let hot = outcome(&engine, RunRequest::new(Language::Python, code)).await;
        assert_eq!(hot.source, VmOrigin::Hot);
    }
    assert_eq!(engine.vm_stats().failed_restores, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primer_leaves_nothing_behind() {
    let engine = engine(true, &Language::ALL).await;
    let assert_clean = async |language, code: &str| {
        let outcome = outcome(&engine, RunRequest::new(language, code)).await;
        assert!(is_restored(outcome.source.as_str()), "{outcome:?}");
    };
    let python = "
import os, threading
assert sorted(k for k in globals() if not k.startswith('__')) == ['os', 'threading'], globals().keys()
assert __name__ == '__main__' and threading.active_count() == 1
assert 'PRIMED' not in os.environ, os.environ
assert os.listdir('/tmp') == [] and sorted(os.listdir()) == ['.local', 'main.py'], os.listdir()
";
    assert_clean(Language::Python, python).await;
    let javascript = "
import { readdirSync } from 'node:fs';
if (process.env.PRIMED !== undefined || readdirSync('/tmp').length) throw new Error('left behind');
for (const name of ['fibonacci', 'work', 'Stack']) if (name in globalThis) throw new Error(name);
";
    assert_clean(Language::Javascript, javascript).await;
    let shell = "[[ -z ${PRIMED+x} && -z ${words+x} && $(type -t count) == '' && -z $(ls -A /tmp) && $(ls -A ~ | grep -vx main.sh) == .local ]]";
    assert_clean(Language::Shell, shell).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_times_out_is_replaced_and_counted() {
    // The template must exist.
    drop(engine(false, &[]).await);
    let engine = Engine::start(Config {
        templates: TemplateUse::Use,
        hot_images: false,
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
    for are_hot_images_used in [false, true] {
        let engine = engine(are_hot_images_used, &[]).await;
        for _ in 0..restores {
            let sandbox = engine.sandbox().memory_mib(512).await.unwrap();
            assert!(is_restored(sandbox.source().as_str()));
        }

        let counts = engine.vm_stats();
        let restores = u64::try_from(restores).unwrap();
        assert_eq!(counts.template + counts.hot_image, restores);
        assert_eq!(
            (counts.failed_restores, counts.failed_continuations),
            (0, 0)
        );
    }
}

/// Ten at once, several times: all succeed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_runs_all_succeed() {
    for are_hot_images_used in [false, true] {
        let engine = engine(are_hot_images_used, &[Language::Python]).await;
        for _ in 0..3 {
            let mut runs = tokio::task::JoinSet::new();
            for n in 0..10 {
                let engine = engine.clone();
                let request = RunRequest::new(Language::Python, format!("print({n})"));
                runs.spawn(async move { outcome(&engine, request).await });
            }

            while let Some(done) = runs.join_next().await {
                assert!(is_restored(done.unwrap().source.as_str()));
            }
        }

        let counts = engine.vm_stats();
        assert_eq!(
            (counts.failed_restores, counts.failed_continuations),
            (0, 0)
        );
    }
}

/// Starts a program that owns three VMs, and returns it with their QEMUs.
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

/// Reads a line of the owner.
fn read_line(lines: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn vms_die_with_their_owner() {
    let (mut child, _lines, qemus) = start_owner();
    send(child.id(), Signal::KILL);
    child.wait().unwrap();
    wait_until("the end of the VMs", || {
        !qemus.iter().any(|&pid| is_alive(pid))
    });
}

/// Moments after a start at which an owner is killed: QEMUs are started, booted or restored, primed, saved then.
const MOMENTS_MS: [u64; 10] = [0, 15, 40, 70, 110, 170, 260, 400, 2000, 4000];

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
fn an_owner_killed_while_it_builds_leaves_nothing() {
    let store = copy_store();
    for moment in MOMENTS_MS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pool-owner"));
        command
            .arg("builds")
            .env("FUMEHOOD_HOME", store.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
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

/// A command in a store of its own, without a server.
fn command(store: &Path, args: &[&str]) -> Command {
    let mut command = fumehood();
    command
        .env("FUMEHOOD_HOME", store)
        .env("FUMEHOOD_NO_SERVER", "1")
        .args(args);
    command
}

fn stdout(command: Command) -> String {
    let output = finish(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the processes that create images in the background for commands in this store.
fn background_builders(store: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_builder = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("build-missing") && line.contains(store.to_str().unwrap())
    };
    pids.filter(is_builder).collect()
}

/// A command that runs once does not wait for an image, and the next one has it.
#[test]
fn an_image_that_a_command_has_missed_is_created_after_it() {
    let store = copy_store();
    let path = store.path();
    let source = || {
        let args = ["run", "--json", "-l", "shell", "-c", "echo hi"];
        let outcome: Value = serde_json::from_str(&stdout(command(path, &args))).unwrap();
        outcome["source"].as_str().unwrap().to_owned()
    };
    let build = ["template", "build", "-l", "shell", "--no-network"];
    let mut without = command(path, &build);
    without.env("FUMEHOOD_HOT_IMAGES", "off");
    stdout(without);
    if !stdout(command(path, &["doctor"])).contains("none since this host was started") {
        return; // With KVM.
    }

    // Not soon after a failure, which the doctor reports.
    let images = Store::open(path).unwrap().hot_images();
    images.lock_builder().unwrap();
    images.record_failure("for this test").unwrap();
    assert_eq!(source(), "template");
    assert_eq!(background_builders(path), [0; 0]);
    let report = stdout(command(path, &["doctor"]));
    assert!(
        report.contains("creating one failed 0 min ago (for this test)"),
        "{report}"
    );

    // It keeps nothing of the command.
    images.clear_failure().unwrap();
    assert_eq!(source(), "template");
    for pid in background_builders(path) {
        for fd in 0..3 {
            let target = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
            assert!(target.is_err() || target.unwrap() == Path::new("/dev/null"));
        }
    }
    wait_until("the image", || images.list().unwrap().len() == 1);
    wait_until("the end of its builder", || {
        background_builders(path).is_empty()
    });

    assert_eq!(source(), "hot_image");
    assert_eq!(background_builders(path), [0; 0]);
    let report = stdout(command(path, &["doctor"]));
    assert!(report.contains("hot images: 1 of "), "{report}");
    let listed = stdout(command(path, &["template", "list"]));
    assert!(
        listed.contains("hot image of shell 512 MiB of memory, "),
        "{listed}"
    );
    let pruned = stdout(command(path, &["template", "prune", "--all"]));
    assert!(pruned.contains("removed 1 hot images"), "{pruned}");
}

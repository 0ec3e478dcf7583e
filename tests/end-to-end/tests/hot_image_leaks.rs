//! Many VMs that continue from one image, in a process of its own: none fails, and nothing is left of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use fumehood_end_to_end::{descendants, engine, finish_ok, repetitions, status_kib, wait_until};
use fumehood_engine::image::Store;
use fumehood_engine::{Engine, Language, RunRequest, VmOrigin};
use futures_util::{StreamExt, stream};

/// How many VMs run at a time.
const AT_ONCE: usize = 3;
/// Runs before the first count: from then on nothing may grow.
const WARM_UP: usize = 12;
/// How long all that belongs to the last VMs may take to be closed.
const TEARDOWN: Duration = Duration::from_secs(30);
/// What the memory of this process may grow by, in KiB: what allocators vary by.
const GROWTH_KIB: u64 = 8192;

/// What this process holds, and what it has made.
#[derive(Debug, PartialEq, Eq)]
struct Remains {
    processes: usize,
    descriptors: usize,
    mounts: usize,
    cgroups: BTreeSet<String>,
    files: Vec<String>,
}

impl Remains {
    fn count() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let is_ours = |line: &&str| line.contains("fumehood") || line.contains(" /proc ");
        let store = Store::default_root().unwrap();
        let unfinished = names(&store.join("hot-images"));
        let is_digest = |name: &String| name.len() == 64;
        Self {
            processes: descendants(std::process::id()).len(),
            descriptors: names(Path::new("/proc/self/fd")).len(),
            mounts: mounts.lines().filter(is_ours).count(),
            cgroups: own_cgroups(),
            files: names(&store.join("tmp"))
                .into_iter()
                .chain(unfinished.into_iter().filter(|name| !is_digest(name)))
                .collect(),
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The cgroups of this process's VMs, whose names contain its id.
fn own_cgroups() -> BTreeSet<String> {
    let own = format!("fumehood-{}-", std::process::id());
    let mut found = BTreeSet::new();
    let mut directories = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if path.to_string_lossy().contains(&own) {
                found.insert(path.display().to_string());
            }
            directories.push(path);
        }
    }
    found
}

/// Runs as many programs, [`AT_ONCE`] at a time.
async fn run(engine: &Engine, count: usize) {
    let runs = stream::iter(0..count).map(|n| async move {
        let code = format!("print({n} * 7)");
        let request = RunRequest::new(Language::Python, code).timeout_s(120);
        let (text, outcome) = finish_ok(engine.run(request).unwrap()).await;
        assert_eq!(outcome.source, VmOrigin::HotImage, "run {n}: {outcome:?}");
        assert_eq!(text, format!("{}\n", n * 7));
    });
    runs.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_vms_of_one_image_succeed_and_leave_nothing() {
    let runs = repetitions("FUMEHOOD_HOT_RUNS", 100, 10_000);
    let engine = engine();
    run(&engine, WARM_UP).await;
    wait_until("the end of the first VMs", || {
        descendants(std::process::id()).is_empty()
    });
    let before = Remains::count();
    let memory_kib = || status_kib(std::process::id(), "RssAnon").unwrap();
    let memory_before = memory_kib();

    run(&engine, runs).await;

    let stats = engine.vm_stats();
    assert_eq!(stats.hot_image, (WARM_UP + runs) as u64, "{stats:?}");
    assert_eq!(stats.failed_restores, 0, "{stats:?}");
    // At the first count, the last VMs may still have had descriptors.
    let count = |before: &Remains| {
        let mut after = Remains::count();
        after.descriptors = after.descriptors.max(before.descriptors);
        after
    };
    let start = Instant::now();
    while count(&before) != before && start.elapsed() < TEARDOWN {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(count(&before), before);

    let grown = memory_kib().saturating_sub(memory_before);
    assert!(grown < GROWTH_KIB, "{runs} runs took {grown} KiB");
    println!("{runs} runs, {grown} KiB");
}

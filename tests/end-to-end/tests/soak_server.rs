//! A server under mixed work for a long time: afterwards it holds what it held before.
//!
//! In CI it does each kind of work a few times. `cargo xtask soak --minutes N` works for that long, and writes the table of
//! docs/design/reliability.md.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fumehood_end_to_end::netns::in_private_netns;
use fumehood_end_to_end::server::{Client, Server};
use fumehood_end_to_end::servers::{WEB4, WebServer, at};
use fumehood_end_to_end::{descendants, status_kib};
use serde_json::{Value, json};

/// The kinds of work.
const KINDS: usize = 14;

/// How much is done at the same time.
const WORKERS: usize = 4;

/// How often each worker does each kind of work before the first measurement: by then every allocation exists once.
const WARM_UP: usize = 1;

/// How often each worker does each kind of work in the short form.
const SHORT: usize = 1;

/// Measurements during the work.
const MEASUREMENTS: u32 = 6;

/// How long everything that was ended may take to be gone.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

/// Growth of the server's memory that is allowed beside a fifth, in KiB: what an allocator varies by in a small process.
const SLACK_KIB: u64 = 8 * 1024;

/// What a server holds.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    operations: usize,
    /// Memory of its own, and its share of all memory that it maps, in KiB.
    own_kib: u64,
    /// What it keeps of the outputs of runs that have ended, in KiB, which is a part of its own memory.
    kept_kib: u64,
    pss_kib: u64,
    descriptors: usize,
    threads: usize,
    processes: usize,
    cgroups: usize,
    mounts: usize,
    /// Files in the image store, beside the state, and in the temporary directory.
    files: [usize; 3],
    /// The size of the state file with its log, in KiB.
    state_kib: u64,
}

impl Held {
    async fn of(server: &Server, operations: usize) -> Self {
        let pid = server.pid();
        let proc = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let read = |name: &str| std::fs::read_to_string(proc(name)).unwrap_or_default();
        let pss = read("smaps_rollup");
        let pss = pss.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss = pss.and_then(|pss| pss.trim().strip_suffix(" kB")?.parse().ok());

        let state = server.dir().path();
        let state_files = ["state.sqlite", "state.sqlite-wal"];
        let state_bytes =
            state_files.map(|name| state.join(name).metadata().map_or(0, |m| m.len()));
        let metrics = server.client().await.request("GET", "/metrics", "").await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        let kept = metrics
            .lines()
            .find(|line| line.contains("kept_output_bytes"));
        let kept = kept.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok());

        let home = std::env::var_os("FUMEHOOD_HOME").map(PathBuf::from);

        Self {
            operations,
            own_kib: status_kib(pid, "RssAnon").unwrap_or(0),
            kept_kib: kept.unwrap() / 1024,
            pss_kib: pss.unwrap_or(0),
            descriptors: entries(&proc("fd")),
            threads: entries(&proc("task")),
            processes: descendants(pid).len(),
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), &format!("fumehood-{pid}-")),
            mounts: read("mountinfo").lines().count(),
            files: [
                home.as_deref().map_or(0, files_in),
                files_in(state),
                files_in(&std::env::temp_dir()),
            ],
            state_kib: state_bytes.iter().sum::<u64>() / 1024,
        }
    }

    /// Returns a row of the table.
    fn row(&self, when: &str) -> String {
        let [store, state, temporary] = self.files;
        format!(
            "| {when} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {store}, {state}, {temporary} | {} |",
            self.operations,
            self.own_kib / 1024,
            self.kept_kib / 1024,
            self.pss_kib / 1024,
            self.descriptors,
            self.threads,
            self.processes,
            self.cgroups,
            self.mounts,
            self.state_kib
        )
    }
}

const TABLE_HEAD: &str = "\
| when | operations | own memory, MiB | of it outputs | PSS, MiB | descriptors | threads | processes | cgroups | mounts | files in store, state, tmp | state, KiB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

fn files_in(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_in(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// Counts the cgroups below a directory whose names start with this.
fn cgroups(directory: &Path, prefix: &str) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories
        .map(|entry| {
            let is_counted = entry.file_name().to_string_lossy().starts_with(prefix);
            usize::from(is_counted) + cgroups(&entry.path(), prefix)
        })
        .sum()
}

/// A client that works.
struct Worker(Client);

impl Worker {
    async fn post(&mut self, path: &str, body: &Value, status: u16) -> Value {
        self.0.json("POST", path, body, status).await
    }

    /// Runs code in a VM of its own.
    async fn run(&mut self, request: &Value) -> Value {
        loop {
            let reply = self
                .0
                .request("POST", "/v1/runs", request.to_string())
                .await;
            match reply.status {
                // The host has no capacity at the moment.
                429 | 503 => tokio::time::sleep(Duration::from_millis(500)).await,
                _ => return reply.json(),
            }
        }
    }

    async fn sandbox(&mut self, request: &Value) -> String {
        loop {
            let reply = self
                .0
                .request("POST", "/v1/sandboxes", request.to_string())
                .await;
            match reply.status {
                429 | 503 => tokio::time::sleep(Duration::from_millis(500)).await,
                _ => return format!("/v1/sandboxes/{}", reply.json()["id"].as_str().unwrap()),
            }
        }
    }

    async fn end(&mut self, sandbox: &str) {
        self.0.json("DELETE", sandbox, &Value::Null, 200).await;
    }

    /// Does one piece of work.
    async fn work(&mut self, kind: usize, server: &Server) {
        match kind {
            0..=2 => {
                let (language, code) = [
                    ("python", "print('ok')"),
                    ("javascript", "console.log('ok')"),
                    ("shell", "echo ok"),
                ][kind];
                let run = self
                    .run(&json!({ "language": language, "code": code }))
                    .await;
                assert_eq!(run["stdout"], "ok\n", "{run}");
            }
            3 => {
                let run = self
                    .run(&json!({ "language": "shell", "code": "exit 3" }))
                    .await;
                assert_eq!(run["exit_code"], 3, "{run}");
            }
            4 => {
                let request = json!({ "language": "shell", "code": "sleep 60", "timeout_s": 1 });
                assert_eq!(self.run(&request).await["ended_by"], "timeout");
            }
            5 => {
                let request = json!({ "language": "shell", "code": "sleep 60", "detach": true });
                let run = self.run(&request).await;
                let path = format!("/v1/runs/{}", run["id"].as_str().unwrap());
                self.post(&format!("{path}/cancel"), &Value::Null, 204)
                    .await;
            }
            6 => {
                let code = "head -c 1000000 /dev/zero";
                let run = self
                    .run(&json!({ "language": "shell", "code": code }))
                    .await;
                assert_eq!(run["stdout_bytes"], 1_000_000, "{run}");
            }
            7 => {
                // The client disappears.
                let client = server.client().await;
                let body = json!({ "language": "shell", "code": "echo one; sleep 60" });
                let mut client = client;
                let headers = [
                    ("accept", "text/event-stream"),
                    ("content-type", "application/json"),
                ];
                drop(
                    client
                        .open("POST", "/v1/runs", &headers, body.to_string())
                        .await,
                );
            }
            8 => {
                let code = format!(
                    "import urllib.request as r; print(len(r.urlopen('http://{WEB4}/bytes/70000').read()))"
                );
                let allow = json!([{ "addresses": [WEB4], "ports": [80] }]);
                let network = json!({ "policy": { "allow": allow } });
                let request = json!({ "language": "python", "code": code, "network": network });
                let run = self.run(&request).await;
                assert_eq!(run["stdout"], "70000\n", "{run}");
            }
            9 => {
                let request = json!({
                    "language": "shell", "code": "tr a-z A-Z < in > out",
                    "uploads": [{ "path": "in", "text": "text" }], "downloads": ["out"],
                });
                assert_eq!(self.run(&request).await["files"][0]["text"], "TEXT");
            }
            10 => self.use_sandbox().await,
            11 => self.fork().await,
            12 => self.kill_program().await,
            _ => {
                self.post("/v1/runs", &json!({ "language": "cobol", "code": "" }), 400)
                    .await;
                self.0
                    .json("GET", "/v1/runs/run_none", &Value::Null, 404)
                    .await;
            }
        }
    }

    async fn use_sandbox(&mut self) {
        let sandbox = self.sandbox(&json!({ "language": "python" })).await;
        for code in ["n = 1", "n += 1; print(n)"] {
            let request = json!({ "language": "python", "code": code, "context": "main" });
            self.post(&format!("{sandbox}/runs"), &request, 200).await;
        }

        let path = format!("{sandbox}/files/content?path=file");
        let content = vec![7_u8; 300_000];
        assert_eq!(
            self.0.request("PUT", &path, content.clone()).await.status,
            200
        );
        assert!(self.0.request("GET", &path, "").await.body == content);

        self.end(&sandbox).await;
    }

    async fn fork(&mut self) {
        let sandbox = self.sandbox(&json!({ "language": "shell" })).await;
        let forks = self
            .post(&format!("{sandbox}/fork"), &json!({ "count": 2 }), 201)
            .await;
        let checkpoint = self
            .post(&format!("{sandbox}/checkpoints"), &Value::Null, 201)
            .await;
        let id = checkpoint["id"].as_str().unwrap();
        let copy = self.sandbox(&json!({ "checkpoint": id })).await;

        let forks = forks["sandboxes"].as_array().unwrap().iter();
        let forks = forks.map(|one| format!("/v1/sandboxes/{}", one["id"].as_str().unwrap()));
        for one in forks.chain([sandbox, copy]) {
            let request = json!({ "language": "shell", "code": "echo here" });
            let run = self.post(&format!("{one}/runs"), &request, 200).await;
            assert_eq!(run["stdout"], "here\n");
            self.end(&one).await;
        }

        let path = format!("/v1/checkpoints/{id}");
        self.0.json("DELETE", &path, &Value::Null, 204).await;
    }

    async fn kill_program(&mut self) {
        let sandbox = self.sandbox(&json!({ "language": "shell" })).await;
        let request = json!({ "argv": ["sleep", "60"], "detach": true });
        let run = self
            .post(&format!("{sandbox}/processes"), &request, 202)
            .await;
        let path = format!("/v1/runs/{}", run["id"].as_str().unwrap());

        self.post(&format!("{path}/signal"), &json!({ "signal": 9 }), 204)
            .await;
        self.end(&sandbox).await;
    }
}

/// Works until `is_over`, which is asked with the number of operations of this worker.
async fn work(
    server: &Arc<Server>,
    done: &Arc<AtomicUsize>,
    is_over: impl Fn(usize) -> bool + Clone + Send + Sync + 'static,
) {
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..WORKERS {
        let (server, done, is_over) = (server.clone(), done.clone(), is_over.clone());
        workers.spawn(async move {
            let mut n = 0;
            while !is_over(n) {
                let mut worker = Worker(server.client().await);
                // The workers do different things at the same time.
                worker
                    .work((n + number * KINDS / WORKERS) % KINDS, &server)
                    .await;
                done.fetch_add(1, Ordering::Relaxed);
                n += 1;
            }
        });
    }
    while let Some(end) = workers.join_next().await {
        end.unwrap();
    }
}

/// Waits until nothing is left of what was ended, and measures.
async fn settled(server: &Server, operations: usize, floor: Option<&Held>) -> Held {
    let start = Instant::now();
    loop {
        let held = Held::of(server, operations).await;
        let is_settled = match floor {
            None => held.processes <= 1 && held.cgroups == 0,
            Some(floor) => {
                held.processes <= floor.processes
                    && held.cgroups <= floor.cgroups
                    && held.descriptors <= floor.descriptors
                    && held.threads <= floor.threads
            }
        };
        if is_settled || start.elapsed() > SETTLE_DEADLINE {
            return held;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn soak() {
    let minutes = std::env::var("FUMEHOOD_SOAK_MINUTES").ok();
    let length = minutes.map(|minutes| Duration::from_secs(60 * minutes.parse::<u64>().unwrap()));

    let web = WebServer::default();
    web.serve(at(WEB4, 80)).await;
    let server = Arc::new(Server::start(&[]));
    let done = Arc::<AtomicUsize>::default();
    let count = || done.load(Ordering::Relaxed);
    let mut table = format!("{TABLE_HEAD}\n");

    work(&server, &done, |n| n >= WARM_UP * KINDS).await;
    let floor = settled(&server, count(), None).await;
    writeln!(table, "{}", floor.row("after the warm-up")).unwrap();

    match length {
        None => work(&server, &done, |n| n >= SHORT * KINDS).await,
        Some(length) => {
            for part in 1..=MEASUREMENTS {
                let end = Instant::now() + length / MEASUREMENTS;
                work(&server, &done, move |_| Instant::now() > end).await;
                let minutes = (length * part / MEASUREMENTS).as_secs() / 60;
                let held = settled(&server, count(), Some(&floor)).await;
                writeln!(table, "{}", held.row(&format!("{minutes} min"))).unwrap();
                println!("{table}");
            }
        }
    }

    let end = settled(&server, count(), Some(&floor)).await;
    writeln!(table, "{}", end.row("at the end")).unwrap();
    println!("{table}");
    if let Some(path) = std::env::var_os("FUMEHOOD_SOAK_TABLE") {
        std::fs::write(path, &table).unwrap();
    }

    let memory = |held: &Held| held.own_kib.saturating_sub(held.kept_kib);
    assert!(
        memory(&end) <= memory(&floor) * 6 / 5 + SLACK_KIB,
        "{table}"
    );
    assert!(end.descriptors <= floor.descriptors, "{table}");
    assert!(end.threads <= floor.threads, "{table}");
    assert!(end.processes <= floor.processes, "{table}");
    assert!(end.cgroups <= floor.cgroups, "{table}");
    assert!(end.mounts <= floor.mounts, "{table}");
    assert!(end.files[..2] <= floor.files[..2], "{table}");
}

#[test]
fn a_server_returns_to_its_floor() {
    in_private_netns("a_server_returns_to_its_floor", soak);
}

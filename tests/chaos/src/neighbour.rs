//! The work of others while faults strike: none of it may fail.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use fumehood_end_to_end::index::{FileServer, PYTHON_INDEX, build_index};
use serde_json::{Value, json};

use crate::random::Random;
use crate::work::{CommandJob, Ended};
use crate::world::{Server, World};

/// An address of the run's own network, which leads nowhere else.
pub(crate) const ADDRESS: &str = "10.66.0.1";
/// The index of packages that commands use.
pub(crate) const INDEX: &str = "http://10.66.0.1:8000/";
const INDEX_AT: &str = "10.66.0.1:8000";
const WEB_AT: &str = "10.66.0.1:8080";

/// A neighbour with its own server. It works until it is dropped.
#[derive(Debug)]
pub(crate) struct Neighbour {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Held while one piece of work is done.
    working: Mutex<()>,
    failures: Mutex<Vec<String>>,
    done: Mutex<BTreeMap<&'static str, u64>>,
    is_over: AtomicBool,
}

impl Neighbour {
    /// Starts the neighbour's server and work.
    ///
    /// # Errors
    /// Fails if its server, its index or its web server cannot start.
    pub(crate) fn start(world: World, seed: u64) -> anyhow::Result<Self> {
        serve_web()?;
        let index = build_index(PYTHON_INDEX, "index", &world.places.root);
        let _ = FileServer::new(&index, None).listen(INDEX_AT);
        let server = Server::start(&world, &[])?;
        let shared = Arc::new(Shared::default());

        let own = shared.clone();
        thread::spawn(move || {
            let mut random = Random::new(seed ^ 0x6e65_6967_6862_6f75);
            while !own.is_over.load(Ordering::Relaxed) {
                let (name, work) = *random.pick(&WORKS);
                let held = lock(&own.working);
                if let Err(error) = work(&world, &mut random) {
                    lock(&own.failures).push(format!("a neighbour's {name}: {error:#}"));
                }
                *lock(&own.done).entry(name).or_default() += 1;
                drop(held);

                // Others wait for the lock, which is not fair.
                thread::sleep(Duration::from_millis(20 + random.below(200)));
            }
        });

        Ok(Self { server, shared })
    }

    /// Returns its server's process.
    pub(crate) fn server(&self) -> u32 {
        self.server.pid()
    }

    /// Lets it finish what it does, and do nothing until the guard is dropped.
    pub(crate) fn pause(&self) -> MutexGuard<'_, ()> {
        lock(&self.shared.working)
    }

    /// Returns what failed since the last call.
    pub(crate) fn failures(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared.failures))
    }

    /// Returns how often each work was done.
    pub(crate) fn done(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.shared.done).clone()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        drop(self.pause());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A piece of work.
type DoWork = fn(&World, &mut Random) -> anyhow::Result<()>;

/// Everything that it does.
const WORKS: [(&str, DoWork); 7] = [
    ("run by command", command),
    ("run by server", request),
    ("session", session),
    ("fork", fork),
    ("directory", directory),
    ("package", package),
    ("network", network),
];

/// Programs that print `12`, by language.
const TWELVE: [(&str, &str); 4] = [
    ("python", "print(3 * 4)"),
    ("javascript", "console.log(3 * 4)"),
    ("typescript", "const n: number = 3; console.log(n * 4)"),
    ("shell", "echo $((3 * 4))"),
];

fn fumehood(world: &World, args: &[&str], expected: &str) -> anyhow::Result<()> {
    let job = CommandJob::start(world, args, false)?;
    let ended: Ended = job.finish(world.deadline(120))?;
    ensure!(
        ended.exit == Some(0) && ended.text.contains(expected),
        "{ended:?}"
    );
    Ok(())
}

fn command(world: &World, random: &mut Random) -> anyhow::Result<()> {
    let (language, code) = *random.pick(&TWELVE);
    fumehood(world, &["run", "-l", language, "-c", code], "12\n")
}

fn request(world: &World, random: &mut Random) -> anyhow::Result<()> {
    let (language, code) = *random.pick(&TWELVE);
    let body = json!({"language": language, "code": code});
    let run = world.expect("POST", "/v1/runs", &body, 200)?;
    ensure!(run["stdout"] == "12\n", "{run}");
    Ok(())
}

/// Starts a sandbox, works in it, and ends it.
fn in_sandbox(
    world: &World,
    language: &str,
    work: impl FnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let body = json!({"language": language, "idle_timeout_s": 120});
    let sandbox = world.expect("POST", "/v1/sandboxes", &body, 201)?;
    let at = format!("/v1/sandboxes/{}", text(&sandbox, "id")?);
    let result = work(&at);
    world.expect("DELETE", &at, &Value::Null, 200)?;
    result
}

fn session(world: &World, random: &mut Random) -> anyhow::Result<()> {
    let (language, code) = *random.pick(&[
        ("python", "n = globals().get('n', 0) + 1; print(n)"),
        (
            "javascript",
            "globalThis.n = (globalThis.n ?? 0) + 1; console.log(n)",
        ),
        ("shell", "n=$((n + 1)); echo $n"),
    ]);
    in_sandbox(world, language, |at| {
        for n in 1..=3 {
            let body = json!({"language": language, "code": code, "context": "main"});
            let run = world.expect("POST", &format!("{at}/runs"), &body, 200)?;
            ensure!(run["stdout"] == format!("{n}\n"), "{run}");
        }
        Ok(())
    })
}

fn fork(world: &World, _: &mut Random) -> anyhow::Result<()> {
    in_sandbox(world, "shell", |at| {
        let run = |at: &str, code: &str| {
            let body = json!({"language": "shell", "code": code});
            world.expect("POST", &format!("{at}/runs"), &body, 200)
        };
        run(at, "echo parent > file")?;
        let made = world.expect("POST", &format!("{at}/fork"), &json!({"count": 1}), 201)?;
        let child = format!("/v1/sandboxes/{}", text(&made["sandboxes"][0], "id")?);
        let seen = run(&child, "cat file; echo child > file")?;
        ensure!(seen["stdout"] == "parent\n", "{seen}");
        let seen = run(at, "cat file")?;
        ensure!(seen["stdout"] == "parent\n", "{seen}");
        world.expect("DELETE", &child, &Value::Null, 200)?;
        Ok(())
    })
}

fn directory(world: &World, random: &mut Random) -> anyhow::Result<()> {
    let (from, to) = (
        world.places.root.join("upload"),
        world.places.root.join("download"),
    );
    let content = "x".repeat(usize::try_from(random.below(100_000))?);
    fs::create_dir_all(from.join("deep"))?;
    fs::write(from.join("deep/file"), &content)?;

    let (upload, download) = (
        format!("{}:work", from.display()),
        format!("work:{}", to.display()),
    );
    let code = "cp work/deep/file work/copy";
    let args = [
        "run",
        "-l",
        "shell",
        "--upload",
        &upload,
        "--download",
        &download,
        "-c",
        code,
    ];
    let result = fumehood(world, &args, "");
    let copied = fs::read_to_string(to.join("copy")).unwrap_or_default();
    let _ = fs::remove_dir_all(&from);
    let _ = fs::remove_dir_all(&to);
    result?;
    ensure!(copied == content, "{} bytes came back", copied.len());
    Ok(())
}

fn package(world: &World, _: &mut Random) -> anyhow::Result<()> {
    let code = "import tiny; print('VALUE', tiny.VALUE)";
    let args = ["run", "-l", "python", "-p", "tiny==1.5", "-c", code];
    fumehood(world, &args, "VALUE 15\n")
}

fn network(world: &World, _: &mut Random) -> anyhow::Result<()> {
    let code =
        format!("import urllib.request as u; print(u.urlopen('http://{WEB_AT}/').read().decode())");
    let allow = format!("{ADDRESS}:8080");
    let args = ["run", "-l", "python", "--allow", &allow, "-c", &code];
    fumehood(world, &args, "a page\n")
}

fn text<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("no `{field}` in {value}"))
}

/// Serves a page to everyone.
fn serve_web() -> anyhow::Result<()> {
    let listener = TcpListener::bind(WEB_AT).context("no address for the web server")?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 6\r\n\r\na page");
        }
    });
    Ok(())
}

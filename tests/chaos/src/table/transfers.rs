//! Something is killed while files, states or packages are on their way.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fault::{Fault, Promise, Scene};
use crate::http::Exchange;
use crate::places::{files_below, private_directory};
use crate::processes;
use crate::work::{CommandJob, Ended};
use crate::world::{Server, World};

/// The ends of an upload whose sandbox was lost. The server answers before it has read everything, and closes the
/// connection: a client that still sends may see that first.
const LOST_UPLOAD: Promise =
    Promise::statuses(&[200, 201, 204, 410, 502]).causes(&["", "lost", "protocol", "connection"]);

/// The ends of a request whose sandbox was lost, if the fault did not come too late.
const LOST: Promise =
    Promise::statuses(&[200, 201, 204, 410, 502]).causes(&["", "lost", "protocol"]);

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::scene("kill-qemu-during-upload", |s| {
            let body = vec![b'x'; 24 << 20];
            strike_sandbox(s, Signal::KILL, |path| {
                ("PUT", format!("{path}/files/content?path=big"), body)
            })
        })
        .promise(LOST_UPLOAD)
        .within(15),
        Fault::scene("kill-qemu-during-fork", |s| {
            let body = b"{\"count\":2}".to_vec();
            strike_sandbox(s, Signal::KILL, |path| {
                ("POST", format!("{path}/fork"), body)
            })
        })
        .promise(LOST)
        .within(15),
        Fault::scene("kill-qemu-during-checkpoint", |s| {
            strike_sandbox(s, Signal::KILL, |path| {
                ("POST", format!("{path}/checkpoints"), Vec::new())
            })
        })
        .promise(LOST)
        .within(15),
        Fault::scene("stop-qemu-during-fork", |s| {
            let body = b"{\"count\":1}".to_vec();
            strike_sandbox(s, Signal::STOP, |path| {
                ("POST", format!("{path}/fork"), body)
            })
        })
        .promise(LOST)
        .within(60)
        .slow(),
        Fault::scene("stop-qemu-during-list", |s| {
            strike_sandbox(s, Signal::STOP, |path| {
                (
                    "GET",
                    format!("{path}/files/list?path=/usr&depth=3"),
                    Vec::new(),
                )
            })
        })
        .promise(LOST)
        .within(60)
        .slow(),
        Fault::scene("kill-qemu-during-download", download)
            .promise(Promise::exits(&[0, 125]))
            .within(15),
        Fault::scene("kill-command-during-template", |s| {
            interrupted(s, &["templates", "layers"], TEMPLATE)
        })
        .promise(Promise::exits(&[0]))
        .within(60)
        .slow(),
        Fault::scene("kill-command-during-packages", |s| {
            interrupted(s, &["layers"], PACKAGE)
        })
        .promise(Promise::exits(&[0]))
        .within(60)
        .slow(),
        Fault::scene("kill-builder-during-packages", builder)
            .promise(Promise::exits(&[0, 125]))
            .within(40)
            .slow(),
        Fault::scene("kill-server-with-a-keyed-run", keyed)
            .promise(Promise::statuses(&[200, 409]).causes(&["server_lost", "conflict"]))
            .within(40),
        Fault::scene("terminate-server-with-a-stuck-reader", stuck)
            .within(40)
            .slow(),
    ]
}

/// Builds a template.
const TEMPLATE: &[&str] = &["template", "build", "-l", "shell", "--no-network"];
/// Installs a package.
const PACKAGE: &[&str] = &[
    "run",
    "-l",
    "python",
    "-p",
    "tiny==2.0",
    "-c",
    "import tiny",
];

/// Starts a sandbox and a request to it, and sends its QEMU a signal at a random time.
fn strike_sandbox(
    s: &mut Scene<'_>,
    signal: Signal,
    request: impl FnOnce(&str) -> (&'static str, String, Vec<u8>),
) -> anyhow::Result<Ended> {
    let before = processes::qemus_of(s.server.pid());
    let made = json!({"language": "shell", "idle_timeout_s": 120});
    let made = s.world.expect("POST", "/v1/sandboxes", &made, 201)?;
    let path = format!("/v1/sandboxes/{}", made["id"].as_str().context("no id")?);
    let mut qemus = processes::qemus_of(s.server.pid());
    qemus.retain(|pid| !before.contains(pid));

    let delay = Duration::from_millis(s.random.below(300)).mul_f64(s.world.scale);
    let striker = thread::spawn(move || {
        thread::sleep(delay);
        qemus
            .into_iter()
            .for_each(|pid| processes::signal(pid, signal));
    });
    let (method, target, body) = request(&path);
    let socket = s.world.places.socket();
    let exchange = Exchange::start(&socket, method, &target, "application/json", &body);
    let answer = exchange.and_then(|one| one.finish(s.world.deadline(s.within_s)));
    let _ = striker.join();

    // Whatever came of it: all sandboxes but the one that is not struck can be ended.
    let ended = Ended::of_request(answer);
    let list = s
        .world
        .expect("GET", "/v1/sandboxes?state=running", &Value::Null, 200)?;
    for one in list["sandboxes"].as_array().into_iter().flatten() {
        let is_other = one["max_lifetime_s"] == 36000;
        let id = one["id"].as_str().unwrap_or_default();
        if !is_other {
            s.world
                .expect("DELETE", &format!("/v1/sandboxes/{id}"), &Value::Null, 200)?;
        }
    }
    let list = s
        .world
        .expect("GET", "/v1/checkpoints", &Value::Null, 200)?;
    for one in list["checkpoints"].as_array().into_iter().flatten() {
        let id = one["id"].as_str().unwrap_or_default();
        s.world
            .request("DELETE", &format!("/v1/checkpoints/{id}"), &Value::Null)?;
    }
    ended
}

/// Kills QEMU while a directory is downloaded.
fn download(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let own = s.own_world()?;
    let target = own.world.places.root.join("target");
    let option = format!("many:{}", target.display());
    // Without other programs, which start slowly in an emulated guest.
    let code = "mkdir many; cd many; x=$(printf %20000s); for i in $(seq 300); do echo \"$x\" > f$i; done; echo up";
    let args = ["run", "-l", "shell", "--download", &option, "-c", code];
    let mut job = CommandJob::start(&own.world, &args, false)?;
    job.wait_for_output("up", own.world.deadline(20))?;

    thread::sleep(Duration::from_millis(s.random.below(300)).mul_f64(s.world.scale));
    let qemus = processes::qemus_of(job.pid());
    qemus
        .into_iter()
        .for_each(|pid| processes::signal(pid, Signal::KILL));
    let ended = job.finish(own.world.deadline(s.within_s))?;

    // A part of the directory may be there, but each file is whole.
    let there = files_below(&target);
    for file in &there {
        let length = std::fs::metadata(file)?.len();
        ensure!(
            length == 20_001,
            "{} has {length} bytes: {ended:?}",
            file.display()
        );
    }
    let is_whole = there.len() == 300;
    ensure!(
        is_whole || ended.exit != Some(0),
        "{} files: {ended:?}",
        there.len()
    );
    Ok(ended)
}

/// Kills a command with a store of its own at a random time. The next one does the same work to its end, and nothing of
/// the first is left.
fn interrupted(s: &mut Scene<'_>, without: &[&str], args: &[&str]) -> anyhow::Result<Ended> {
    let mut own = s.own_world()?;
    let store = own.own_store(&[], without)?;
    if without.contains(&"templates") {
        // Hot images are created, too.
        private_directory(&store.join("hot-images"))?;
    }

    let job = CommandJob::start(&own.world, args, false)?;
    thread::sleep(Duration::from_millis(s.random.below(3000)).mul_f64(s.world.scale));
    processes::signal(job.pid(), Signal::KILL);
    job.finish(own.world.deadline(10))?;

    let ended = s.run(&own.world, args)?;
    check_store(&own.world)?;
    Ok(ended)
}

/// Checks that no entry of the store is unfinished.
fn check_store(world: &World) -> anyhow::Result<()> {
    for cache in ["templates", "hot-images", "layers"] {
        let left = unfinished(&world.places.store.join(cache));
        ensure!(left.is_empty(), "unfinished: {left:?}");
    }
    let temporary = files_below(&world.places.temporary);
    ensure!(temporary.is_empty(), "temporary files: {temporary:?}");
    Ok(())
}

fn unfinished(cache: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.contains("staging") || name.ends_with(".new"))
        .collect()
}

/// Kills the VM that installs packages.
fn builder(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let mut own = s.own_world()?;
    own.own_store(&[], &["layers"])?;
    let job = CommandJob::start(&own.world, PACKAGE, false)?;
    own.world.wait_until("the builder", 20, || {
        !processes::qemus_of(job.pid()).is_empty()
    })?;
    thread::sleep(Duration::from_millis(s.random.below(3000)).mul_f64(s.world.scale));
    let qemus = processes::qemus_of(job.pid());
    qemus
        .into_iter()
        .for_each(|pid| processes::signal(pid, Signal::KILL));

    let ended = job.finish(own.world.deadline(s.within_s))?;
    check_store(&own.world)?;
    Ok(ended)
}

/// A server is killed during a run with a key. Its successor starts no other run under that key.
fn keyed(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let own = s.own_world()?;
    let mut server = Server::start(&own.world, &[])?;
    let socket = own.world.places.socket();
    let body = json!({"language": "shell", "code": "sleep 60"}).to_string();
    let post = || Exchange::start_keyed(&socket, "/v1/runs", "key", body.as_bytes());

    let first = post()?;
    thread::sleep(Duration::from_millis(20 + s.random.below(400)).mul_f64(s.world.scale));
    server.end(&own.world, Signal::KILL)?;
    drop(first);

    let mut server = Server::start(&own.world, &[])?;
    let ended = Ended::of_request(post()?.finish(own.world.deadline(s.within_s)));
    server.end(&own.world, Signal::TERM)?;
    ended
}

/// A server ends although a client does not read.
fn stuck(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let own = s.own_world()?;
    let mut server = Server::start(&own.world, &["--drain-s", "2"])?;
    let body = json!({"language": "shell", "code": "yes"}).to_string();
    let socket = own.world.places.socket();
    let accept = "text/event-stream";
    let unread = Exchange::start(&socket, "POST", "/v1/runs", accept, body.as_bytes())?;

    thread::sleep(Duration::from_millis(500 + s.random.below(1500)).mul_f64(s.world.scale));
    let code = server.end(&own.world, Signal::TERM)?;
    drop(unread);
    ensure!(code == Some(0), "the server exits with {code:?}");
    Ok(Ended::default())
}

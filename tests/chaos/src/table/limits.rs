//! Resources of the host that run out: descriptors, memory, processes.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::small_runs::RUN;
use crate::fault::{Fault, Promise, Scene};
use crate::places::Place;
use crate::processes;
use crate::work::{Ended, Job, SLEEP, Work};
use crate::world::tail;

/// The ends of a run for which a resource was missing, or not.
const REFUSED: &[&str] = &["exited", "host", "busy", "boot", "lost"];

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::scene("server-without-descriptors", descriptors)
            .promise(Promise::statuses(&[200, 429, 503]).causes(REFUSED))
            .within(40),
        Fault::scene("server-without-memory", memory)
            .promise(Promise::causes_of(&["connection"]))
            .within(40)
            .ends_server(),
        Fault::scene("command-without-memory", |s| {
            let mib = 60 + s.random.below(500);
            limited(s, &format!("--as={}", mib << 20))
        })
        .promise(Promise::exits(&[0, 125]))
        .within(20),
        Fault::scene("command-without-descriptors", |s| {
            let most = 4 + s.random.below(60);
            limited(s, &format!("--nofile={most}"))
        })
        .promise(Promise::exits(&[0, 125]))
        .within(20),
        Fault::scene("command-without-file-size", |s| {
            let most = s.random.below(64) << 20;
            limited(s, &format!("--fsize={most}"))
        })
        .promise(Promise::exits(&[0, 125]))
        .within(20),
    ]
}

/// Sets a limit of a running process.
fn limit(pid: u32, option: &str) -> anyhow::Result<()> {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), option])
        .status();
    ensure!(
        status.context("prlimit, of util-linux")?.success(),
        "prlimit failed"
    );
    Ok(())
}

/// Runs a command with this limit.
fn limited(s: &Scene<'_>, option: &str) -> anyhow::Result<Ended> {
    let inner = s.world.fumehood(&RUN, false);
    let mut command = Command::new("prlimit");
    command
        .args([option, "--"])
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }

    let ended = crate::work::finish(command, s.world.deadline(s.within_s))?;
    ensure!(
        ended.exit != Some(0) || ended.text.contains("well"),
        "it exits with 0 and prints nothing: {ended:?}"
    );
    ensure!(
        ended.exit != Some(125) || !ended.text.trim().is_empty(),
        "it fails without a message"
    );
    Ok(ended)
}

/// The size of a body that the server has no memory for, in bytes: nearly the largest that it reads.
const LARGE_BODY: usize = 7 << 20;

/// Lets the server allocate nothing more. Its next large allocation ends it, with a message, and its VMs with it.
fn memory(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let mut job = Job::start(s.world, Work::Stream(SLEEP), Some(s.server))?;
    job.wait_until_up(s.world.deadline(30))?;
    limit(s.server.pid(), "--as=1048576")?;

    // Memory that it has may serve some of them.
    let body = json!({"language": "shell", "code": "x".repeat(LARGE_BODY)});
    let deadline = s.world.deadline(s.within_s);
    while s.server.is_alive() {
        ensure!(Instant::now() < deadline, "the server goes on");
        let _ = s.world.request("POST", "/v1/runs", &body);
    }

    let status = s.server.wait(s.world)?;
    let log = tail(s.world.places.of(Place::Log));
    let is_abort = status.signal() == Some(Signal::ABORT.as_raw());
    // The second is said by a thread that cannot start.
    let messages = ["memory allocation of", "Cannot allocate memory"];
    ensure!(
        is_abort && messages.iter().any(|message| log.contains(message)),
        "the server ended with {status}: {log}"
    );
    job.finish(s.world, deadline)
}

/// Takes all descriptors of the server, asks for a run, and gives them back.
fn descriptors(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let pid = s.server.pid();
    let before = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let soft = before
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .context("no limit of descriptors")?;
    // Enough for the connection, and for a random part of what a VM needs.
    let most = processes::all_descriptors(pid) as u64 + 2 + s.random.below(24);

    limit(pid, &format!("--nofile={most}:"))?;
    let (socket, deadline) = (s.world.places.socket(), s.world.deadline(s.within_s));
    let asked = thread::spawn(move || {
        let body = json!({"language": "shell", "code": "echo well"});
        crate::http::request(&socket, "POST", "/v1/runs", &body, deadline)
    });
    let answer = asked.join().ok().context("the client")?;
    limit(pid, &format!("--nofile={soft}:"))?;

    s.world.expect("GET", "/healthz", &Value::Null, 200)?;
    Ended::of_request(answer)
}

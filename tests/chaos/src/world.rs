//! The programs and places of a run, and the server that most faults strike.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{self, Reply};
use crate::places::{Place, Places};
use crate::processes;

/// The time for a small run on an idle machine: other machines get more time for everything, in proportion.
const USUAL_RUN: Duration = Duration::from_millis(400);
/// The most that deadlines grow by on a loaded machine.
const MAX_SCALE: f64 = 12.0;

/// What all faults share.
#[derive(Debug)]
pub(crate) struct World {
    /// The command under test.
    pub(crate) program: PathBuf,
    pub(crate) places: Places,
    /// How much longer everything takes than on an idle machine, as the last small run took.
    pub(crate) scale: f64,
}

impl World {
    /// Returns a world with these places.
    pub(crate) fn new(program: PathBuf, places: Places) -> Self {
        Self {
            program,
            places,
            scale: 2.0,
        }
    }

    /// Returns the same world with other places.
    pub(crate) fn at(&self, places: Places) -> Self {
        Self {
            program: self.program.clone(),
            places,
            scale: self.scale,
        }
    }

    /// Returns a command `fumehood` that works in this world, with a server or without one.
    pub(crate) fn fumehood(&self, args: &[&str], with_server: bool) -> Command {
        let mut command = Command::new(&self.program);
        self.set_environment(&mut command);
        if !with_server {
            command.env("FUMEHOOD_NO_SERVER", "1");
        }
        command.args(args).stdin(Stdio::null());
        command
    }

    fn set_environment(&self, command: &mut Command) {
        let places = &self.places;
        command
            // The default store: a command with another one uses no server.
            .env("XDG_DATA_HOME", places.data())
            .env_remove("FUMEHOOD_HOME")
            .env("TMPDIR", &places.temporary)
            .env("XDG_RUNTIME_DIR", &places.runtime)
            .env("XDG_STATE_HOME", &places.state)
            .env("HOME", &places.root)
            .env("UV_DEFAULT_INDEX", crate::addresses::INDEX)
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env_remove("FUMEHOOD_NO_SERVER");
        // A store without hot images stays so: none is created in the background while a fault is injected.
        if !places.store.join("hot-images").is_dir() {
            command.env("FUMEHOOD_HOT_IMAGES", "off");
        }
    }

    /// Returns the time that comes after this many seconds on an idle machine.
    pub(crate) fn deadline(&self, seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds).mul_f64(self.scale)
    }

    /// Sends a request to the server, which has 60 s for it.
    ///
    /// # Errors
    /// Fails if there is no answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Reply> {
        http::request(&self.places.socket(), method, path, body, self.deadline(60))
    }

    /// As [`request`](Self::request), for an answer of this status.
    ///
    /// # Errors
    /// Fails if the status is another one.
    pub(crate) fn expect(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        status: u16,
    ) -> anyhow::Result<Value> {
        let reply = self.request(method, path, body)?;
        let text = String::from_utf8_lossy(&reply.body);
        ensure!(
            reply.status == status,
            "{method} {path}: {} in place of {status}: {text}",
            reply.status
        );
        Ok(reply.json())
    }

    /// Runs a small program through the server, and learns from it how loaded the machine is.
    ///
    /// # Errors
    /// Fails if it does not end as it should.
    pub(crate) fn check_run(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let body = json!({"language": "shell", "code": "echo well"});
        let run = self.expect("POST", "/v1/runs", &body, 200)?;
        ensure!(run["stdout"] == "well\n", "a small run afterwards: {run}");

        let took = start.elapsed().as_secs_f64() / USUAL_RUN.as_secs_f64();
        self.scale = took.clamp(1.5, MAX_SCALE);
        Ok(())
    }

    /// Waits until `done` returns true.
    ///
    /// # Errors
    /// Fails after this many seconds.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        seconds: u64,
        mut done: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let (start, deadline) = (Instant::now(), self.deadline(seconds));
        while !done() {
            ensure!(
                Instant::now() < deadline,
                "{what} did not come within {:.0} s",
                start.elapsed().as_secs_f64()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts a server in this world and waits until it listens.
    ///
    /// # Errors
    /// Fails if it does not.
    pub(crate) fn start(world: &World, options: &[&str]) -> anyhow::Result<Self> {
        let socket = world.places.socket();
        let mut command = world.fumehood(&["serve", "--no-tcp", "--socket"], true);
        command
            .arg(&socket)
            .arg("--state")
            .arg(world.places.of(Place::State).join("server.sqlite"))
            .args(options)
            .stdout(Stdio::piped())
            .stderr(log(world.places.of(Place::Log))?);

        let child = command.spawn().context("the server cannot be started")?;
        let mut server = Self { child };
        let Some(stdout) = server.child.stdout.take() else {
            bail!("the server has no output");
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(
            line.starts_with("listening at"),
            "the server does not listen: {line}{}",
            tail(world.places.of(Place::Log))
        );

        Ok(server)
    }

    /// Returns its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal, and returns its exit code.
    ///
    /// # Errors
    /// Fails if it does not exit in time.
    pub(crate) fn end(&mut self, world: &World, signal: Signal) -> anyhow::Result<Option<i32>> {
        processes::signal(self.pid(), signal);
        Ok(self.wait(world)?.code())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Fails if it does not exit in time.
    pub(crate) fn wait(&mut self, world: &World) -> anyhow::Result<ExitStatus> {
        world.wait_until("the server's end", 60, || !self.is_alive())?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("server.log");
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.with_context(|| path.display().to_string())
}

/// Returns the last lines of a server's log.
pub(crate) fn tail(directory: &Path) -> String {
    const LINES: usize = 12;
    let text = std::fs::read(directory.join("server.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

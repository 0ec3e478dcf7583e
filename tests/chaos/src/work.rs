//! The work that a fault strikes, and how it ended.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::http::{Exchange, Reply};
use crate::processes;
use crate::world::{Server, World};

/// A program that says `up` and runs until something ends it.
pub(crate) const SLEEP: &str = "echo up; sleep 100";

/// Work that runs while a fault strikes. All of it is a shell program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// `fumehood run` with a VM of its own, with these options.
    Command(&'static [&'static str], &'static str),
    /// `fumehood run` through the server.
    ThroughServer(&'static str),
    /// `POST /v1/runs` for JSON.
    Request(&'static str),
    /// `POST /v1/runs` for a stream of events.
    Stream(&'static str),
    /// A run in a context of a sandbox, as a stream of events.
    Session(&'static str),
}

/// How work ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    /// The exit code of a command.
    pub(crate) exit: Option<i32>,
    /// The status of a response.
    pub(crate) status: Option<u16>,
    /// `kind` of the error, or else `ended_by` of the outcome; `connection` if the connection broke.
    pub(crate) cause: String,
    /// Everything else that was said, for the promise's words and for reports.
    pub(crate) text: String,
}

impl Ended {
    /// Returns the end of a command.
    pub(crate) fn of_command(exit: Option<i32>, stdout: &[u8], stderr: &[u8]) -> Self {
        let text = |bytes: &[u8]| {
            const KEPT: usize = 4000;
            String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(KEPT)..]).into_owned()
        };
        let said: Value = serde_json::from_slice(stdout).unwrap_or(Value::Null);

        Self {
            exit,
            cause: cause(&said),
            text: format!("{}{}", text(stdout), text(stderr)),
            ..Self::default()
        }
    }

    /// Returns the end of a request; a broken connection is one too.
    ///
    /// # Errors
    /// Fails if no answer came within the deadline.
    pub(crate) fn of_request(reply: anyhow::Result<Reply>) -> anyhow::Result<Self> {
        match reply {
            Ok(reply) => {
                let text = String::from_utf8_lossy(&reply.body).into_owned();
                let mut cause = cause(&reply.json());
                if text.starts_with("event:") {
                    cause = cause_of_stream(&text);
                }

                Ok(Self {
                    status: Some(reply.status),
                    cause,
                    text,
                    ..Self::default()
                })
            }
            Err(error) if format!("{error:#}").starts_with("connection") => Ok(Self {
                cause: "connection".into(),
                text: format!("{error:#}"),
                ..Self::default()
            }),
            Err(error) => Err(error),
        }
    }
}

/// Returns the reason in an object that a command or the server gave.
fn cause(said: &Value) -> String {
    let found = [
        &said["error"]["kind"],
        &said["kind"],
        &said["ended_by"],
        &said["ended"],
    ];
    let text = found.into_iter().find_map(Value::as_str);
    match text {
        // The run object's kinds are no errors.
        Some("code" | "process") => said["ended_by"].as_str().unwrap_or_default().to_owned(),
        other => other.unwrap_or_default().to_owned(),
    }
}

/// Returns what a stream's last event says; `connection` if the stream ends before it.
fn cause_of_stream(text: &str) -> String {
    let last = text.rsplit("event: ").next().unwrap_or_default();
    let is_last = last.starts_with("ended\n") || last.starts_with("failed\n");
    let data = last.lines().find_map(|line| line.strip_prefix("data: "));

    match (is_last, data) {
        (true, Some(data)) => cause(&serde_json::from_str(data).unwrap_or(Value::Null)),
        _ => "connection".into(),
    }
}

/// Work under way.
#[derive(Debug)]
pub(crate) struct Job {
    running: Running,
    owner: u32,
    /// The QEMU processes that the server had before.
    others: Vec<u32>,
    /// The path of the sandbox that was started for it.
    sandbox: Option<String>,
}

#[derive(Debug)]
enum Running {
    Command(CommandJob),
    Request(Exchange),
}

impl Job {
    /// Starts work. `server` is the one that it uses, if it uses one.
    ///
    /// # Errors
    /// Fails if it cannot start.
    pub(crate) fn start(
        world: &World,
        work: Work,
        server: Option<&Server>,
    ) -> anyhow::Result<Self> {
        let server_pid = server.map(Server::pid);
        let others = server_pid.map(processes::qemus_of).unwrap_or_default();
        let run = ["run", "-l", "shell"];
        let body = |code: &str| json!({"language": "shell", "code": code, "timeout_s": 90});
        let post = |path: &str, accept: &str, body: &Value| {
            let body = body.to_string();
            Exchange::start(
                &world.places.socket(),
                "POST",
                path,
                accept,
                body.as_bytes(),
            )
        };

        let mut sandbox_path = None;
        let running = match work {
            Work::Command(options, code) => {
                let args = [&run, options, &["-c", code]].concat();
                Running::Command(CommandJob::start(world, &args, false)?)
            }
            Work::ThroughServer(code) => {
                let args = [&run[..], &["-t", "90", "-c", code]].concat();
                Running::Command(CommandJob::start(world, &args, true)?)
            }
            Work::Request(code) => {
                Running::Request(post("/v1/runs", "application/json", &body(code))?)
            }
            Work::Stream(code) => {
                Running::Request(post("/v1/runs", "text/event-stream", &body(code))?)
            }
            Work::Session(code) => {
                let sandbox = json!({"language": "shell", "idle_timeout_s": 60});
                let sandbox = world.expect("POST", "/v1/sandboxes", &sandbox, 201)?;
                let id = sandbox["id"].as_str().context("a sandbox without an id")?;
                let mut body = body(code);
                body["context"] = json!("main");
                let path = format!("/v1/sandboxes/{id}");
                let stream = post(&format!("{path}/runs"), "text/event-stream", &body)?;
                sandbox_path = Some(path);
                Running::Request(stream)
            }
        };

        let owner = match (&running, work) {
            (Running::Command(job), Work::Command(..)) => job.child.id(),
            _ => server_pid.context("this work needs a server")?,
        };
        Ok(Self {
            running,
            owner,
            others,
            sandbox: sandbox_path,
        })
    }

    /// Waits until the program has said `up`.
    ///
    /// # Errors
    /// Fails if it ends first, or at the deadline.
    pub(crate) fn wait_until_up(&mut self, deadline: Instant) -> anyhow::Result<()> {
        match &mut self.running {
            Running::Command(job) => job.wait_for_output("up", deadline),
            Running::Request(exchange) => exchange.read_until("up\\n", deadline),
        }
    }

    /// Returns the process that the caller sees: the command.
    ///
    /// # Errors
    /// Fails if the work is a request.
    pub(crate) fn command(&self) -> anyhow::Result<u32> {
        match &self.running {
            Running::Command(job) => Ok(job.child.id()),
            Running::Request(_) => bail!("this work is no command"),
        }
    }

    /// Returns the QEMU processes of this work.
    pub(crate) fn qemus(&self) -> Vec<u32> {
        let mut all = processes::qemus_of(self.owner);
        all.retain(|pid| !self.others.contains(pid));
        all
    }

    /// Returns all processes below the work's owner that were not there before, launchers included.
    pub(crate) fn children(&self) -> Vec<u32> {
        let below = processes::below(&processes::all(), self.owner);
        let pids = below.iter().map(|process| process.pid);
        pids.filter(|pid| !self.others.contains(pid)).collect()
    }

    /// Closes the caller's side: its pipe or its connection.
    pub(crate) fn vanish(&mut self) {
        match &mut self.running {
            Running::Command(job) => job.close_stdout(),
            Running::Request(exchange) => exchange.shut_down(),
        }
    }

    /// Waits for the end, and ends the sandbox that was started for it.
    ///
    /// # Errors
    /// Fails at the deadline.
    pub(crate) fn finish(self, world: &World, deadline: Instant) -> anyhow::Result<Ended> {
        let ended = match self.running {
            Running::Command(job) => job.finish(deadline),
            Running::Request(exchange) => Ended::of_request(exchange.finish(deadline)),
        };

        // The fault may have ended it, or its server; the leak check finds one that is left.
        if let Some(path) = self.sandbox {
            let _ = world.request("DELETE", &path, &Value::Null);
        }
        ended
    }
}

/// A command that runs, with readers of its output. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct CommandJob {
    child: Child,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// Gets a word for each piece of output, and one that says that the reader has ended.
    pieces: Receiver<()>,
    close: Arc<Mutex<bool>>,
}

impl CommandJob {
    /// Starts a command `fumehood`.
    ///
    /// # Errors
    /// Fails if it cannot be started.
    pub(crate) fn start(world: &World, args: &[&str], with_server: bool) -> anyhow::Result<Self> {
        Self::spawn(world.fumehood(args, with_server), Duration::ZERO)
    }

    /// Starts a command without a server, whose output is read only after a while.
    ///
    /// # Errors
    /// Fails if it cannot be started.
    pub(crate) fn start_unread(
        world: &World,
        args: &[&str],
        pause: Duration,
    ) -> anyhow::Result<Self> {
        Self::spawn(world.fumehood(args, false), pause)
    }

    fn spawn(mut command: Command, pause: Duration) -> anyhow::Result<Self> {
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("the command cannot be started")?;

        let close = Arc::new(Mutex::new(false));
        let (sender, pieces) = mpsc::channel();
        let stdout = read_in_background(child.stdout.take(), Some(sender), close.clone(), pause);
        let stderr = read_in_background(child.stderr.take(), None, Arc::default(), Duration::ZERO);

        Ok(Self {
            child,
            stdout,
            stderr,
            pieces,
            close,
        })
    }

    /// Returns its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn output(&self) -> Vec<u8> {
        let bytes = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.clone()
    }

    pub(crate) fn wait_for_output(&mut self, word: &str, deadline: Instant) -> anyhow::Result<()> {
        loop {
            if String::from_utf8_lossy(&self.output()).contains(word) {
                return Ok(());
            }

            let left = deadline.saturating_duration_since(Instant::now());
            let piece = self
                .pieces
                .recv_timeout(left.min(Duration::from_millis(50)));
            let has_ended = matches!(piece, Err(mpsc::RecvTimeoutError::Disconnected));
            ensure!(
                !left.is_zero() && !has_ended,
                "the command did not print `{word}`: {} {}",
                String::from_utf8_lossy(&self.output()),
                String::from_utf8_lossy(
                    &self.stderr.lock().unwrap_or_else(PoisonError::into_inner)
                )
            );
        }
    }

    /// Closes the read end of its standard output at the next piece.
    fn close_stdout(&mut self) {
        *self.close.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Fails at the deadline.
    pub(crate) fn finish(mut self, deadline: Instant) -> anyhow::Result<Ended> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(
                Instant::now() < deadline,
                "the command did not end within the deadline; it printed: {}{}",
                String::from_utf8_lossy(&self.output()),
                String::from_utf8_lossy(
                    &self.stderr.lock().unwrap_or_else(PoisonError::into_inner)
                )
            );
            thread::sleep(Duration::from_millis(3));
        };

        // The readers end with the pipes; a child of the command that holds one is found by the leak check.
        let _ = self.pieces.recv_timeout(Duration::from_secs(5));
        while self.pieces.recv_timeout(Duration::from_secs(2)).is_ok() {}
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let code = status.code().or_else(|| {
            use std::os::unix::process::ExitStatusExt;
            status.signal().map(|signal| -signal)
        });
        Ok(Ended::of_command(code, &self.output(), &stderr))
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Fails at the deadline.
pub(crate) fn finish(command: Command, deadline: Instant) -> anyhow::Result<Ended> {
    CommandJob::spawn(command, Duration::ZERO)?.finish(deadline)
}

impl Drop for CommandJob {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_in_background(
    stream: Option<impl Read + Send + 'static>,
    sender: Option<mpsc::Sender<()>>,
    close: Arc<Mutex<bool>>,
    pause: Duration,
) -> Arc<Mutex<Vec<u8>>> {
    /// No check needs more.
    const KEPT: usize = 1 << 20;
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let kept = bytes.clone();

    thread::spawn(move || {
        let (Some(mut stream), mut buffer) = (stream, [0; 65536]) else {
            return;
        };
        thread::sleep(pause);
        while let Ok(read) = stream.read(&mut buffer) {
            if read == 0 || *close.lock().unwrap_or_else(PoisonError::into_inner) {
                return;
            }
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            // The end is what promises are about.
            kept.extend_from_slice(&buffer[..read]);
            if kept.len() > 2 * KEPT {
                let dropped = kept.len() - KEPT;
                kept.drain(..dropped);
            }
            drop(kept);
            if let Some(sender) = &sender {
                let _ = sender.send(());
            }
        }
    });

    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_error_or_the_outcome() {
        assert_eq!(cause(&json!({"error": {"kind": "lost"}})), "lost");
        assert_eq!(cause(&json!({"kind": "boot", "retry": "safe"})), "boot");
        let run = json!({"kind": "code", "ended_by": "exited", "error": null});
        assert_eq!(cause(&run), "exited");
        assert_eq!(cause(&json!({"ended_by": "agent_lost"})), "agent_lost");
    }

    #[test]
    fn a_streams_last_event_says_how_it_ended() {
        let body = "event: run\ndata: {\"id\":\"run_1\"}\n\nevent: ended\ndata: {\"kind\":\"code\",\"ended_by\":\"timeout\"}\n\n";
        let reply = Reply {
            status: 200,
            body: body.into(),
        };
        assert_eq!(Ended::of_request(Ok(reply)).unwrap().cause, "timeout");
        assert_eq!(
            cause_of_stream("event: run\ndata: {}\n\nevent: stdout\ndata: {}\n\n"),
            "connection"
        );
    }
}

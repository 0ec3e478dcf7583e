//! What the tests that boot real VMs share. They run the command as a user does.

pub mod guest;
pub mod index;
pub mod netns;
pub mod unprivileged;
pub mod pty;
pub mod server;
pub mod servers;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fumehood_engine::{
    Config, Context, EndedBy, Engine, Error, Event, MimeBundle, Outcome, Run, Sandbox, TemplateUse,
};
use serde_json::Value;

/// How long any one run may take on a busy machine under software emulation.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// The command under test, as `cargo xtask test` built it. A server that this user may have is left alone.
///
/// # Panics
/// When the tests are not run by `cargo xtask test`, which also builds the image that they need.
#[must_use]
pub fn fumehood() -> Command {
    let mut command = Command::new(program());
    command.env("FUMEHOOD_NO_SERVER", "1");
    command
}

/// Where the command under test is.
///
/// # Panics
/// As [`fumehood`].
#[must_use]
pub fn program() -> PathBuf {
    let program = std::env::var_os("FUMEHOOD_BIN").map(PathBuf::from);
    program.filter(|path| path.is_file()).unwrap_or_else(|| {
        panic!("FUMEHOOD_BIN names no program; run these tests by `cargo xtask test`, which builds it and the image")
    })
}

/// A static program of the tests, which `cargo xtask test` builds.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn test_program(name: &str) -> PathBuf {
    let target = program().ancestors().nth(2).map(PathBuf::from);
    let directory = target
        .unwrap_or_default()
        .join("x86_64-unknown-linux-gnu/guest");

    let path = directory.join(name);
    assert!(
        path.exists(),
        "{} is not there; run these tests by `cargo xtask test`, which builds it",
        path.display()
    );

    path
}

/// Runs a command to its end, within [`DEADLINE`].
///
/// # Panics
/// When it takes longer.
#[must_use]
pub fn finish(mut command: Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finish_child(child.unwrap_or_else(|e| panic!("{command:?}: {e}")))
}

/// Waits for a child's end, within [`DEADLINE`], and returns what it wrote.
///
/// # Panics
/// When it takes longer.
#[must_use]
pub fn finish_child(mut child: Child) -> Output {
    let stdout = read_in_background(child.stdout.take());
    let stderr = read_in_background(child.stderr.take());
    let mut status = None;
    wait_until("the command's end", || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });

    Output {
        status: status.unwrap_or_default(),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    }
}

/// Reads all that comes from a child, while its owner does something else.
fn read_in_background(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Looks until `done` holds.
///
/// # Panics
/// After [`DEADLINE`].
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < DEADLINE,
            "{what} did not come within {DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs code with `--json` and further options; returns the object and the exit code.
///
/// # Panics
/// When no object comes.
#[must_use]
pub fn json(language: &str, code: &str, options: &[&str]) -> (Value, i32) {
    let mut command = fumehood();
    command
        .args(["run", "--json", "-l", language, "-c", code])
        .args(options);

    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text).unwrap_or_else(|e| {
        panic!(
            "no JSON ({e}): {text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });

    (value, output.status.code().unwrap_or(-1))
}

/// All that a run prints, both streams together, and its outcome, within [`DEADLINE`].
///
/// # Panics
/// When it has no outcome, prints what is no text, or does not exit with 0.
pub async fn finish_ok(mut run: Run) -> (String, Outcome) {
    let mut text = Vec::new();
    let all = async {
        while let Some(event) = run.next().await {
            match event {
                Event::Stdout(bytes) | Event::Stderr(bytes) => text.extend_from_slice(&bytes),
                _ => {}
            }
        }

        run.outcome().await
    };

    let outcome = tokio::time::timeout(DEADLINE, all).await;
    let outcome = outcome.unwrap_or_else(|_| panic!("no outcome came within {DEADLINE:?}"));
    let outcome = outcome.unwrap_or_else(|e| panic!("the run has no outcome: {e}"));
    let text = String::from_utf8(text).unwrap_or_else(|e| panic!("no text was printed: {e}"));
    assert_eq!(outcome.exit_code, Some(0), "{text} {outcome:?}");

    (text, outcome)
}

/// All that a run has told.
#[derive(Debug)]
pub struct RunTranscript {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The values that it has shown.
    pub results: Vec<MimeBundle>,
    /// How it ended.
    pub outcome: Outcome,
}

impl RunTranscript {
    /// Its standard output.
    ///
    /// # Panics
    /// When it is no text.
    #[must_use]
    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|e| panic!("no text was printed: {e}"))
    }

    /// Its standard error, as far as it is text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The plain texts of the values that it has shown.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.results.iter().filter_map(MimeBundle::text).collect()
    }

    /// Why it ended, and its exit code.
    #[must_use]
    pub fn end(&self) -> (EndedBy, Option<i32>) {
        (self.outcome.ended_by, self.outcome.exit_code)
    }

    /// What the evidence says for a person.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.outcome.evidence.detail.as_deref().unwrap_or_default()
    }
}

/// Waits for something, within [`DEADLINE`].
///
/// # Panics
/// When it takes longer.
pub async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not come within {DEADLINE:?}"))
}

/// All that a run tells from now on, and its outcome or why there is none, within [`DEADLINE`].
///
/// # Errors
/// What [`Run::outcome`] says.
///
/// # Panics
/// When it takes longer, or output and outcome contradict each other.
pub async fn collect(mut run: Run) -> Result<RunTranscript, Error> {
    let (mut stdout, mut stderr, mut results) = (Vec::new(), Vec::new(), Vec::new());
    let all = async {
        while let Some(event) = run.next().await {
            match event {
                Event::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                Event::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                Event::Result(value) => results.push(value),
                _ => {}
            }
        }

        run.outcome().await
    };

    let outcome = within_deadline("an outcome", all).await?;
    assert!(
        outcome.stdout.bytes >= stdout.len() as u64,
        "{outcome:?} of {} bytes",
        stdout.len()
    );

    Ok(RunTranscript {
        stdout,
        stderr,
        results,
        outcome,
    })
}

/// The same of a run that has an outcome.
///
/// # Panics
/// When it has none.
pub async fn finish_run(run: Run) -> RunTranscript {
    let transcript = collect(run).await;
    transcript.unwrap_or_else(|e| panic!("the run has no outcome: {e}"))
}

/// Runs code in a context, to its end.
///
/// # Panics
/// When it has no outcome.
pub async fn run_in(context: &Context, code: &str) -> RunTranscript {
    let run = context.start(&context.request(code).timeout_s(120));
    finish_run(run.unwrap_or_else(|e| panic!("{code}: {e}"))).await
}

/// The next thing that a run writes to its standard output, as text.
///
/// # Panics
/// When it ends without.
pub async fn next_stdout(run: &mut Run) -> String {
    let next = async {
        loop {
            match run.next().await {
                Some(Event::Stdout(bytes)) => break String::from_utf8_lossy(&bytes).into_owned(),
                Some(Event::Stderr(bytes)) => {
                    panic!("standard error: {}", String::from_utf8_lossy(&bytes))
                }
                Some(_) => {}
                None => panic!("it ended without output"),
            }
        }
    };

    within_deadline("output", next).await
}

/// What a run writes to its standard output, until it ends in this.
///
/// # Panics
/// When it ends without.
pub async fn stdout_until(run: &mut Run, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text += &next_stdout(run).await;
    }
    text
}

/// An engine that restores VMs where there is a template, and builds none.
///
/// # Panics
/// When there is no image.
#[must_use]
pub fn engine() -> Engine {
    let engine = Engine::start(Config {
        templates: TemplateUse::Use,
        ..Config::default()
    });
    engine.unwrap_or_else(|e| panic!("{e}"))
}

/// A sandbox of this much memory, which restores its VM if there is a template.
///
/// # Panics
/// When there is none to be had.
pub async fn sandbox(memory_mib: u32) -> Sandbox {
    let sandbox = engine().sandbox().memory_mib(memory_mib).await;
    sandbox.unwrap_or_else(|e| panic!("{e}"))
}

/// The processes below `pid`, of any depth.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();

    let mut found = Vec::new();
    for task in tasks {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in text
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
        {
            found.push(child);
            found.extend(descendants(child));
        }
    }

    found
}

/// Whether a process is there and no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with('Z')
    })
}

/// Resident memory of a process in MiB; 0 when it is gone.
#[must_use]
pub fn resident_mib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS").unwrap_or(0) / 1024
}

/// A field of a process's status, without its name; none where the process or the field is not there.
#[must_use]
pub fn status(pid: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut lines = status.lines();
    let field = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
    field.map(|field| field.trim().to_string())
}

/// A figure of a process's status, in KiB.
#[must_use]
pub fn status_kib(pid: u32, name: &str) -> Option<u64> {
    status(pid, name)?.strip_suffix(" kB")?.parse().ok()
}

/// Sends a signal to a process that this test started.
///
/// # Panics
/// When there is no such process.
pub fn send(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);

    let sent = pid.map(|pid| rustix::process::kill_process(pid, signal));
    assert!(
        matches!(sent, Some(Ok(()))),
        "no signal could be sent to {pid:?}"
    );
}

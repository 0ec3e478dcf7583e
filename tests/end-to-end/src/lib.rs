//! Helpers shared by the tests that boot real VMs.
//!
//! Here: running the command as a user does, running code in sandboxes of the engine, waiting with a deadline, and
//! looking at processes. The modules hold what only some tests need: a network for a guest, servers, a terminal.

pub mod fidelity;
pub mod guest;
pub mod index;
pub mod netns;
pub mod own_store;
pub mod unprivileged;
pub mod pty;
pub mod server;
pub mod servers;

use std::io::Read;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fumehood_engine::{
    Config, Context, EndedBy, Engine, Error, Event, Language, MimeBundle, Outcome, Run, RunRequest,
    Sandbox, TemplateUse,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The longest that any one run may take on a busy machine under software emulation.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Time for code to run in a guest, in seconds.
const TIMEOUT_S: u64 = 120;

/// Whether tests that repeat something should do it as often as the design asks for: set by `cargo xtask test --long`.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os("FUMEHOOD_TEST_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Returns the number of repetitions that this environment variable asks for; without it, `long` where [`is_long`]
/// holds, and `default` otherwise.
///
/// # Panics
/// Panics if the variable's value is not a number.
#[must_use]
pub fn repetitions(variable: &str, default: usize, long: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
        Err(_) if is_long() => long,
        Err(_) => default,
    }
}

/// Returns the command under test, as `cargo xtask test` built it. It does not use a server that this user may run.
///
/// # Panics
/// Panics if the tests are not run by `cargo xtask test`, which also builds the image that they need.
#[must_use]
pub fn fumehood() -> Command {
    let mut command = Command::new(program());
    command.env("FUMEHOOD_NO_SERVER", "1");
    command
}

/// Returns the path of the command under test.
///
/// # Panics
/// Panics in the same cases as [`fumehood`].
#[must_use]
pub fn program() -> PathBuf {
    let program = std::env::var_os("FUMEHOOD_BIN").map(PathBuf::from);
    program.filter(|path| path.is_file()).unwrap_or_else(|| {
        panic!("FUMEHOOD_BIN names no program; run these tests by `cargo xtask test`, which builds it and the image")
    })
}

/// Returns the path of a static program of the tests, which `cargo xtask test` builds.
///
/// # Panics
/// Panics if it does not exist.
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
/// Panics if it takes longer.
#[must_use]
pub fn finish(mut command: Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finish_child(child.unwrap_or_else(|e| panic!("{command:?}: {e}")))
}

/// Waits until a child process has ended, within [`DEADLINE`], and returns its exit code; `None` after a signal.
///
/// # Panics
/// Panics if it does not end.
#[must_use]
pub fn wait_for_exit(mut child: Child) -> Option<i32> {
    let mut status = None;
    wait_until("the command's end", || {
        status = child.try_wait().expect("its status");
        status.is_some()
    });

    status.and_then(|status| status.code())
}

/// Waits for the end of a child process, within [`DEADLINE`], and returns its output.
///
/// # Panics
/// Panics if it takes longer.
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

/// Reads a child's output stream to its end in a thread.
fn read_in_background(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Polls until `done` returns true.
///
/// # Panics
/// Panics after [`DEADLINE`].
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

/// Runs code by the command with `--json` and further options, and returns the printed object and the exit code.
///
/// # Panics
/// Panics if the command does not print an object.
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

/// Returns a request to run this shell code.
#[must_use]
pub fn shell(code: impl Into<String>) -> RunRequest {
    RunRequest::new(Language::Shell, code).timeout_s(TIMEOUT_S)
}

/// Runs code in a sandbox and returns its output, both streams together.
///
/// # Panics
/// Panics if it does not exit with 0.
pub async fn run_ok(sandbox: &Sandbox, language: Language, code: &str) -> String {
    request_ok(sandbox, RunRequest::new(language, code)).await
}

/// Runs shell code in a sandbox and returns its output, both streams together.
///
/// # Panics
/// Panics if it does not exit with 0.
pub async fn shell_ok(sandbox: &Sandbox, code: &str) -> String {
    run_ok(sandbox, Language::Shell, code).await
}

/// Carries out a request in a sandbox and returns the output, both streams together.
///
/// # Panics
/// Panics if it does not exit with 0.
pub async fn request_ok(sandbox: &Sandbox, request: RunRequest) -> String {
    let run = sandbox.run(&request.timeout_s(TIMEOUT_S));
    let run = run.unwrap_or_else(|e| panic!("the run cannot start: {e}"));
    finish_ok(run).await.0
}

/// Waits for the end of a run, within [`DEADLINE`], and returns its output, both streams together, and its outcome.
///
/// # Panics
/// Panics if it has no outcome, prints anything but UTF-8, or does not exit with 0.
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

/// Everything that a run has reported.
#[derive(Debug)]
pub struct RunTranscript {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The values that it displayed.
    pub results: Vec<MimeBundle>,
    /// How it ended.
    pub outcome: Outcome,
}

impl RunTranscript {
    /// Returns its standard output.
    ///
    /// # Panics
    /// Panics if it is not UTF-8.
    #[must_use]
    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|e| panic!("no text was printed: {e}"))
    }

    /// Returns its standard error, with replacement characters for what is not UTF-8.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Returns the plain texts of the values that it displayed.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.results.iter().filter_map(MimeBundle::text).collect()
    }

    /// Returns why it ended, and its exit code.
    #[must_use]
    pub fn end(&self) -> (EndedBy, Option<i32>) {
        (self.outcome.ended_by, self.outcome.exit_code)
    }

    /// Returns the evidence's text for people; empty if it has none.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.outcome.evidence.detail.as_deref().unwrap_or_default()
    }
}

/// Waits for a future, within [`DEADLINE`].
///
/// # Panics
/// Panics if it takes longer.
pub async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not come within {DEADLINE:?}"))
}

/// Waits for the end of a run, within [`DEADLINE`], and returns all that it reports from now on.
///
/// # Errors
/// Returns the error of [`Run::outcome`].
///
/// # Panics
/// Panics if the run takes longer, or if output and outcome contradict each other.
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

/// Waits for the end of a run as [`collect`] does.
///
/// # Panics
/// Panics if the run has no outcome.
pub async fn finish_run(run: Run) -> RunTranscript {
    let transcript = collect(run).await;
    transcript.unwrap_or_else(|e| panic!("the run has no outcome: {e}"))
}

/// Runs code in a context to its end.
///
/// # Panics
/// Panics if the run has no outcome.
pub async fn run_in(context: &Context, code: &str) -> RunTranscript {
    let run = context.start(&context.request(code).timeout_s(TIMEOUT_S));
    finish_run(run.unwrap_or_else(|e| panic!("{code}: {e}"))).await
}

/// Returns the next piece of a run's standard output.
///
/// # Panics
/// Panics if the run ends first, or writes to its standard error.
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

/// Reads a run's standard output until the text ends in `end`.
///
/// # Panics
/// Panics if the run ends first, or writes to its standard error.
pub async fn read_stdout_until(run: &mut Run, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text += &next_stdout(run).await;
    }
    text
}

/// Starts an engine that restores VMs where there is a template, and builds no templates.
///
/// # Panics
/// Panics if there is no image.
#[must_use]
pub fn engine() -> Engine {
    let engine = Engine::start(Config {
        templates: TemplateUse::Use,
        ..Config::default()
    });
    engine.unwrap_or_else(|e| panic!("{e}"))
}

/// Returns whether a VM came from the state that was saved for its language: a hot image, or with KVM a template.
#[must_use]
pub fn is_restored(source: &str) -> bool {
    ["hot_image", "template"].contains(&source)
}

/// Starts a sandbox of this much memory; its VM is restored if there is a template.
///
/// # Panics
/// Panics if it cannot start.
pub async fn sandbox(memory_mib: u32) -> Sandbox {
    let sandbox = engine().sandbox().memory_mib(memory_mib).await;
    sandbox.unwrap_or_else(|e| panic!("{e}"))
}

/// Returns pseudo-random bytes that do not repeat, the same at each call.
#[must_use]
pub fn random_bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }

    bytes.truncate(len);
    bytes
}

/// Returns the SHA-256 of these bytes in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Calls `work` with each of the inputs at the same time, each in its own thread, and returns the results.
///
/// # Panics
/// Panics if one of the calls does.
pub fn map_at_once<I: Send, T: Send, const N: usize>(
    inputs: [I; N],
    work: impl Fn(I) -> T + Sync,
) -> [T; N] {
    let work = &work;
    std::thread::scope(|scope| {
        let threads = inputs.map(|input| scope.spawn(move || work(input)));
        threads.map(|thread| thread.join().unwrap_or_else(|e| resume_unwind(e)))
    })
}

/// Returns the descendants of process `pid`.
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

/// Whether a process exists and is not a zombie.
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

/// Returns the resident memory of a process in MiB; 0 if the process does not exist.
#[must_use]
pub fn resident_mib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS").unwrap_or(0) / 1024
}

/// Returns the value of a field of `/proc/PID/status`; `None` if there is no such process or field.
#[must_use]
pub fn status(pid: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut lines = status.lines();
    let field = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
    field.map(|field| field.trim().to_string())
}

/// Returns the value of a field of `/proc/PID/status` that is given in KiB.
#[must_use]
pub fn status_kib(pid: u32, name: &str) -> Option<u64> {
    status(pid, name)?.strip_suffix(" kB")?.parse().ok()
}

/// Sends a signal to a process that this test started.
///
/// # Panics
/// Panics if there is no such process.
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

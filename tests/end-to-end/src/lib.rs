//! What the tests that boot real VMs share. They run the command as a user does.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fumehood_engine::{Event, Outcome, Run};
use serde_json::Value;

/// How long any one run may take on a busy machine under software emulation.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// The command under test, as `cargo xtask test` built it.
///
/// # Panics
/// When the tests are not run by `cargo xtask test`, which also builds the image that they need.
#[must_use]
pub fn fumehood() -> Command {
    Command::new(program())
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
    let reader = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                let _ = stream.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = reader(child.stdout.take().map(|s| Box::new(s) as _));
    let stderr = reader(child.stderr.take().map(|s| Box::new(s) as _));
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
pub async fn succeeded(mut run: Run) -> (String, Outcome) {
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
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_ascii_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
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

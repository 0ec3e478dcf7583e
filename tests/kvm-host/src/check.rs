//! Runs one check with a deadline.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};

use crate::plan::Check;

/// The part of a check's output that is reported, in bytes: its end.
const OUTPUT_BYTES: u64 = 16 * 1024;

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How a check ended.
pub(crate) struct Outcome {
    pub(crate) passed: bool,
    pub(crate) seconds: f64,
    /// The end of its output.
    pub(crate) output: String,
}

pub(crate) fn run(check: &Check) -> Outcome {
    let start = Instant::now();
    let result = run_in_time(check, start);
    let seconds = start.elapsed().as_secs_f64();

    let (passed, output) = result.unwrap_or_else(|error| (false, error.to_string()));
    Outcome {
        passed,
        seconds,
        output,
    }
}

fn run_in_time(check: &Check, start: Instant) -> io::Result<(bool, String)> {
    const OUTPUT: &str = "/run/output";
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(OUTPUT)?;

    let child = Command::new(&check.program)
        .args(&check.args)
        .current_dir(&check.directory)
        .env_clear()
        .envs(&check.environment)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file.try_clone()?)
        .process_group(0)
        .spawn()?;
    let pid = Pid::from_child(&child);

    let deadline = start + Duration::from_secs(check.timeout_s);
    let status = wait_until(pid, deadline)?;
    let mut output = end_of(file)?;
    if status.is_none() {
        output.push_str("\n(it did not end in time)");
    }

    Ok((status.is_some_and(|s| s.exit_status() == Some(0)), output))
}

/// Waits for this child, and for any other that the first process has inherited. Returns nothing if the deadline passes;
/// the child's group is then killed.
fn wait_until(pid: Pid, deadline: Instant) -> io::Result<Option<WaitStatus>> {
    let mut in_time = true;

    loop {
        while let Some((ended, status)) = wait(WaitOptions::NOHANG)? {
            if ended == pid {
                return Ok(in_time.then_some(status));
            }
        }

        if in_time && Instant::now() > deadline {
            in_time = false;
            let _ = kill_process_group(pid, Signal::KILL);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn end_of(mut file: File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES)))?;

    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

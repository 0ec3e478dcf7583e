//! Code and programs in a sandbox: starting them, and passing on their output until they end.

use anyhow::Context;
use fumehood_engine::{EndedBy, Outcome};
use serde_json::{Value, json};

use crate::args::SandboxInputArgs;
use crate::io::{Output, is_stdin_redirected, print_line};
use crate::outcome::{exit_code, print_outcome};
use crate::server_client::{ServerClient, ServerRun, StartedRun};

impl SandboxInputArgs {
    /// Returns whether standard input is forwarded. `has_program`: it contains the program.
    pub(super) fn forwards_stdin(&self, has_program: bool) -> bool {
        self.stdin || !(self.no_stdin || has_program) && is_stdin_redirected()
    }
}

/// Starts a run in a sandbox, and follows its events.
///
/// # Errors
/// The server refuses the run, or cannot be reached.
pub(super) async fn start(
    server: &ServerClient,
    path: &str,
    body: &Value,
) -> anyhow::Result<ServerRun> {
    match server.start_run(path, body).await? {
        StartedRun::Running(run) => Ok(*run),
        StartedRun::Draining(failure) => Err(failure.into()),
    }
}

/// Starts a run that continues without this command, and prints its id.
///
/// # Errors
/// As [`start`].
pub(super) async fn start_detached(
    server: &ServerClient,
    path: &str,
    mut body: Value,
) -> anyhow::Result<u8> {
    body["detach"] = json!(true);
    let run = server.post(path, &body).await?;
    let id = run["id"].as_str().context("unexpected answer: no run")?;
    print_line(&id)?;
    Ok(0)
}

/// Writes the output of a run until it has ended.
///
/// # Errors
/// The output cannot be written, or the run has no outcome.
pub(super) async fn write_output(mut run: ServerRun) -> anyhow::Result<Outcome> {
    let mut output = Output::to_streams();
    while let Some(event) = run.next().await {
        let written = output.write_event(&event).await;
        written.context("cannot write the output")?;
    }
    Ok(run.outcome().await?)
}

/// Prints why a run ended if its exit code does not say it, and returns the exit code. `timeout_s` and `memory_mib`: the
/// limits of the run.
pub(super) fn report(outcome: &Outcome, timeout_s: u64, memory_mib: u32) -> u8 {
    // The exit code 128 + n already says that a signal ended the program, as a shell would.
    if outcome.ended_by != EndedBy::Signaled {
        print_outcome(outcome, timeout_s, memory_mib);
    }
    exit_code(outcome)
}

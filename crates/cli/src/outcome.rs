//! The outcome of a program: exit code, messages, and failures without an outcome.

use fumehood_engine::{EndedBy, Error, Outcome};
use serde::Serialize;

use crate::exit_code::{FAILURE, INTERRUPTED, TIMEOUT};
use crate::io::eprint_message;

/// Returns the exit code of this command for a program's outcome.
pub(crate) fn exit_code(outcome: &Outcome) -> u8 {
    match outcome.ended_by {
        EndedBy::Timeout => TIMEOUT,
        EndedBy::Cancelled => INTERRUPTED,
        EndedBy::AgentLost => FAILURE,
        _ => outcome
            .exit_code
            .and_then(|code| u8::try_from(code & 0xff).ok())
            .unwrap_or(FAILURE),
    }
}

/// Prints a line on standard error if the exit code alone does not explain the outcome. `timeout_s` and `memory_mib`:
/// the limits that the program had.
pub(crate) fn print_outcome(outcome: &Outcome, timeout_s: u64, memory_mib: u32) {
    let evidence = &outcome.evidence;
    let reason = match outcome.ended_by {
        // The exit code says everything.
        EndedBy::Exited => return,
        EndedBy::Timeout => {
            let accelerator = outcome.accelerator;
            format!("timed out after {timeout_s} s under {accelerator}; raise the timeout with -t")
        }
        EndedBy::Cancelled => "cancelled".to_string(),
        EndedBy::OutOfMemory => {
            format!("out of memory: the VM has {memory_mib} MiB; raise it with -m")
        }
        EndedBy::Signaled => {
            let signal = evidence.signal.unwrap_or_default();
            format!("terminated by signal {signal}")
        }
        EndedBy::OutputLimit => "output limit exceeded".to_string(),
        EndedBy::AgentLost => "the VM was lost".to_string(),
    };

    // The guest or the engine may know more, such as which process used the memory.
    match &evidence.detail {
        Some(detail) => eprint_message(&format!("{reason}: {detail}")),
        None => eprint_message(&reason),
    }
}

/// A failure without an outcome, with the words of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) retry: String,
    pub(crate) message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            kind: error.kind().as_str().into(),
            retry: error.retry().as_str().into(),
            message: error.to_string(),
        }
    }
}

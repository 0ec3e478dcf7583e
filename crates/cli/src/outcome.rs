//! The outcome of a program: exit code, messages, and failures without an outcome.

use fumehood_engine::{EndedBy, Error, Evidence, NetworkOutcome, Outcome, report};
use serde_json::{Map, Value};

use crate::exit_code::{FAILURE, INTERRUPTED, TIMEOUT};
use crate::io::eprint_message;

/// The result of a run, by this process or by a server.
#[derive(Debug)]
pub(crate) struct RunResult {
    pub(crate) exit_code: Option<i32>,
    pub(crate) ended_by: EndedBy,
    pub(crate) evidence: Evidence,
    pub(crate) accelerator: String,
    pub(crate) network: Option<NetworkOutcome>,
    pub(crate) details: RunDetails,
}

/// Everything that is known of a result.
#[derive(Debug)]
pub(crate) enum RunDetails {
    /// From an engine in this process.
    Outcome(Box<Outcome>),
    /// From a server.
    Fields(Map<String, Value>),
}

impl RunResult {
    /// Returns all fields of `--json`.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        match &self.details {
            RunDetails::Outcome(outcome) => report::outcome(outcome),
            RunDetails::Fields(fields) => fields.clone(),
        }
    }
}

impl From<Outcome> for RunResult {
    fn from(outcome: Outcome) -> Self {
        Self {
            exit_code: outcome.exit_code,
            ended_by: outcome.ended_by,
            evidence: outcome.evidence.clone(),
            accelerator: outcome.accelerator.to_string(),
            network: outcome.network.clone(),
            details: RunDetails::Outcome(Box::new(outcome)),
        }
    }
}

/// Returns the exit code of this command for a program's outcome.
pub(crate) fn exit_code(result: &RunResult) -> u8 {
    match result.ended_by {
        EndedBy::Timeout => TIMEOUT,
        EndedBy::Cancelled => INTERRUPTED,
        EndedBy::AgentLost => FAILURE,
        _ => result
            .exit_code
            .and_then(|code| u8::try_from(code & 0xff).ok())
            .unwrap_or(FAILURE),
    }
}

/// Prints a line on standard error if the exit code alone does not explain the outcome. `timeout_s` and `memory_mib`:
/// the limits that the program had.
pub(crate) fn print_outcome(result: &RunResult, timeout_s: u64, memory_mib: u32) {
    let evidence = &result.evidence;
    let reason = match result.ended_by {
        // The exit code says everything.
        EndedBy::Exited => return,
        EndedBy::Timeout => {
            let accelerator = &result.accelerator;
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

/// A failure without an outcome.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) retry: String,
    pub(crate) message: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            kind: format!("{:?}", error.kind()).to_lowercase(),
            retry: format!("{:?}", error.retry()).to_lowercase(),
            message: error.to_string(),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let message = format!("{error:#}");

        match error.downcast::<Error>() {
            Ok(engine_error) => Self {
                message,
                ..engine_error.into()
            },
            // Errors of other types are those of this machine, such as an unreadable file.
            Err(_) => Self {
                kind: "host".into(),
                retry: "safe".into(),
                message,
            },
        }
    }
}

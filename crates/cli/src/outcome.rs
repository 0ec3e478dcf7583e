use fumehood_engine::{EndedBy, Error, Evidence, NetworkOutcome, Outcome, report};
use serde_json::{Map, Value};

use crate::exit_code::{FAILURE, INTERRUPTED, TIMEOUT};
use crate::io::complain;

/// How a program ended, whoever drove it: an engine of this command's or a server.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit_code: Option<i32>,
    pub(crate) ended_by: EndedBy,
    pub(crate) evidence: Evidence,
    pub(crate) accelerator: String,
    pub(crate) network: Option<NetworkOutcome>,
    pub(crate) told: Told,
}

/// All that is known of an end.
#[derive(Debug)]
pub(crate) enum Told {
    /// By an engine of this command's own.
    Outcome(Box<Outcome>),
    /// By a server.
    Fields(Map<String, Value>),
}

impl Ended {
    /// All of it, as `--json` has it.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        match &self.told {
            Told::Outcome(outcome) => report::outcome(outcome),
            Told::Fields(fields) => fields.clone(),
        }
    }
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self {
            exit_code: outcome.exit_code,
            ended_by: outcome.ended_by,
            evidence: outcome.evidence.clone(),
            accelerator: outcome.accelerator.to_string(),
            network: outcome.network.clone(),
            told: Told::Outcome(Box::new(outcome)),
        }
    }
}

/// The exit code of this command, when a program ended so.
pub(crate) fn exit_code(ended: &Ended) -> u8 {
    match ended.ended_by {
        EndedBy::Timeout => TIMEOUT,
        EndedBy::Cancelled => INTERRUPTED,
        EndedBy::AgentLost => FAILURE,
        _ => ended
            .exit_code
            .and_then(|code| u8::try_from(code & 0xff).ok())
            .unwrap_or(FAILURE),
    }
}

/// A line on standard error, where the exit code alone would leave a riddle. `timeout_s` and `memory_mib`: what
/// the program had.
pub(crate) fn explain(ended: &Ended, timeout_s: u64, memory_mib: u32) {
    let evidence = &ended.evidence;
    let what = match ended.ended_by {
        EndedBy::Exited => return,
        EndedBy::Timeout => {
            let accelerator = &ended.accelerator;
            format!("ended after {timeout_s} s, its timeout (-t), under {accelerator}")
        }
        EndedBy::Cancelled => "cancelled".to_string(),
        EndedBy::OutOfMemory => {
            format!("killed for want of memory; the VM has {memory_mib} MiB (-m)")
        }
        EndedBy::Signaled => format!("ended by signal {}", evidence.signal.unwrap_or_default()),
        EndedBy::OutputLimit => "ended at its output limit".to_string(),
        EndedBy::AgentLost => "the VM was lost".to_string(),
    };
    let detail = evidence
        .detail
        .as_deref()
        .map(|detail| format!(": {detail}"))
        .unwrap_or_default();
    complain(&format!("{what}{detail}"));
}

/// Why there is no outcome.
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
            Ok(known) => Self {
                message,
                ..known.into()
            },
            // What is wrong here.
            Err(_) => Self {
                kind: "host".into(),
                retry: "safe".into(),
                message,
            },
        }
    }
}

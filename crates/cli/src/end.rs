use fumehood_engine::{EndedBy, Error, Outcome};

use crate::commands::complain;
use crate::exit::{FAILURE, INTERRUPTED, TIMEOUT};

/// The exit code of this command, when a program ended so.
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

/// A line on standard error, where the exit code alone would leave a riddle. `timeout_s` and `memory_mib`: what
/// the program had.
pub(crate) fn explain(outcome: &Outcome, timeout_s: u64, memory_mib: u32) {
    let evidence = &outcome.evidence;
    let what = match outcome.ended_by {
        EndedBy::Exited => return,
        EndedBy::Timeout => {
            let accelerator = outcome.accelerator;
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

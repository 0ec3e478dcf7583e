use std::time::Duration;

use fumehood_protocol::{Complete, EndedBy, ErrorMessage, ErrorType, Evidence};

use super::event_pump::End;
use super::outcome::Timing;
use crate::agent::ChannelError;
use crate::error::{Error, ErrorKind, printable};
use crate::vm::{Life, Vm};

/// The exit code of what was cancelled, as shells have it for an interrupt.
pub(crate) const CANCELLED: i32 = 130;
/// The exit code of what ran out of time, as `timeout` has it.
const TIMED_OUT: i32 = 124;

/// What an outcome says about the end.
pub(crate) struct Ending {
    pub(crate) exit_code: Option<i32>,
    pub(crate) ended_by: EndedBy,
    pub(crate) evidence: Evidence,
}

/// Says how the operation ended, and ends the VM, where that is the operation's own.
pub(crate) async fn ending(
    end: Result<End, ChannelError>,
    cancelled: bool,
    vm: Option<Vm>,
    life: Option<&Life>,
    timing: &mut Timing,
) -> Result<Ending, Error> {
    let given_up = |detail: String| {
        let (ended_by, code) = if cancelled {
            (EndedBy::Cancelled, CANCELLED)
        } else {
            (EndedBy::Timeout, TIMED_OUT)
        };
        lost(ended_by, Some(code), detail)
    };
    Ok(match end {
        Ok(End::Complete(complete)) => {
            timing.spawn = Duration::from_millis(complete.spawn_ms.unwrap_or(0));
            timing.teardown = end_of(vm).await;
            let Complete {
                exit_code,
                ended_by,
                evidence,
                ..
            } = complete;
            let detail = evidence.detail.map(|detail| printable(&detail));
            Ending {
                exit_code: Some(exit_code),
                ended_by,
                evidence: Evidence { detail, ..evidence },
            }
        }
        Ok(End::Refused(refusal)) => return Err(refused(&refusal)),
        Ok(End::Detached) => {
            let what = "the run is followed by somebody else";
            return Err(Error::new(ErrorKind::Lost, what).after_start());
        }
        Ok(End::Overdue) => {
            let words = vm.as_ref().map(Vm::last_words).unwrap_or_default();
            timing.teardown = end_of(vm).await;
            given_up(format!(
                "the guest did not end it in time, and was given up{words}"
            ))
        }
        Ok(End::Stalled) => {
            timing.teardown = end_of(vm).await;
            lost(
                EndedBy::Cancelled,
                Some(CANCELLED),
                "nobody took its output, and was given up".into(),
            )
        }
        Err(ChannelError::Violation(what)) => {
            end_of(vm).await;
            let message = format!("the guest broke the protocol: {what}");
            return Err(Error::new(ErrorKind::Protocol, message).after_start());
        }
        Err(ChannelError::Closed | ChannelError::Silent(_)) => {
            let known = match (vm, life) {
                (Some(vm), _) => vm.post_mortem().await,
                (None, Some(life)) => life.why().await,
                (None, None) => "the VM has ended".to_string(),
            };
            lost(EndedBy::AgentLost, None, known)
        }
    })
}

async fn end_of(vm: Option<Vm>) -> Duration {
    match vm {
        Some(vm) => vm.end().await,
        None => Duration::ZERO,
    }
}

fn lost(ended_by: EndedBy, exit_code: Option<i32>, detail: String) -> Ending {
    let detail = Some(printable(&detail));
    Ending {
        exit_code,
        ended_by,
        evidence: Evidence {
            detail,
            ..Evidence::default()
        },
    }
}

/// The agent's word that it did not do what was asked.
pub(crate) fn refused(refusal: &ErrorMessage) -> Error {
    let kind = match refusal.error_type {
        ErrorType::BusyError => ErrorKind::InUse,
        ErrorType::AgentError | ErrorType::RefreshError => ErrorKind::Host,
        ErrorType::ProtocolError | ErrorType::AuthError => ErrorKind::Protocol,
        ErrorType::RequestError
        | ErrorType::CodeError
        | ErrorType::EnvVarError
        | ErrorType::PackageError
        | ErrorType::PathError => ErrorKind::Invalid,
    };
    let message = format!("the guest's agent refused it: {}", refusal.message);
    Error::new(kind, message).with_errno(refusal.errno)
}

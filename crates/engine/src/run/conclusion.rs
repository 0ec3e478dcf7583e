use std::time::Duration;

use fumehood_protocol::{Complete, EndedBy, ErrorMessage, ErrorType, Evidence};

use super::event_pump::OperationEnd;
use crate::agent::ChannelError;
use crate::error::{Error, ErrorKind, printable};
use crate::vm::{SandboxLifetime, Vm};

/// The exit code of a cancelled run: that of shells for an interrupted program.
pub(crate) const CANCELLED: i32 = 130;
/// The exit code of a run that timed out: that of `timeout`.
const TIMED_OUT: i32 = 124;

/// The reason of an end that the guest did not report.
pub(crate) const OVERDUE: &str = "the guest did not end the program in time";

/// The part of an outcome that follows from how the operation ended.
pub(crate) struct Conclusion {
    pub(crate) exit_code: Option<i32>,
    pub(crate) ended_by: EndedBy,
    pub(crate) evidence: Evidence,
    /// How long the interpreter took to be ready, as reported by the guest.
    pub(crate) spawn: Duration,
    /// How long it took to end the VM.
    pub(crate) teardown: Duration,
    /// The guest did not report the end in time: it may answer no other request either.
    pub(crate) is_overdue: bool,
}

impl Conclusion {
    /// The end of an operation that the guest did not report.
    fn of_host(
        ended_by: EndedBy,
        exit_code: Option<i32>,
        detail: &str,
        teardown: Duration,
    ) -> Self {
        Self {
            exit_code,
            ended_by,
            evidence: Evidence {
                detail: Some(printable(detail)),
                ..Evidence::default()
            },
            spawn: Duration::ZERO,
            teardown,
            is_overdue: false,
        }
    }

    /// The end that the guest reported.
    fn of_guest(complete: Complete, teardown: Duration) -> Self {
        let detail = complete.evidence.detail.map(|detail| printable(&detail));
        Self {
            exit_code: Some(complete.exit_code),
            ended_by: complete.ended_by,
            evidence: Evidence {
                detail,
                ..complete.evidence
            },
            spawn: Duration::from_millis(complete.spawn_ms.unwrap_or(0)),
            teardown,
            is_overdue: false,
        }
    }
}

/// Determines how an operation ended, and ends the VM if it belongs to the run.
pub(crate) async fn conclude(
    end: Result<OperationEnd, ChannelError>,
    cancelled: bool,
    vm: Option<Vm>,
    lifetime: Option<&SandboxLifetime>,
) -> Result<Conclusion, Error> {
    match end {
        Ok(OperationEnd::Complete(complete)) => {
            let teardown = end_vm(vm).await;
            Ok(Conclusion::of_guest(complete, teardown))
        }
        Ok(OperationEnd::Refused(refusal)) => Err(rejection(&refusal)),
        Ok(OperationEnd::Detached) => {
            let message = "another caller attached to the run";
            Err(Error::new(ErrorKind::Lost, message).after_start())
        }
        Ok(OperationEnd::Overdue) => {
            let (ended_by, code) = if cancelled {
                (EndedBy::Cancelled, CANCELLED)
            } else {
                (EndedBy::Timeout, TIMED_OUT)
            };

            // The console may show why the guest hangs.
            let console = vm.as_ref().map(Vm::console_tail).unwrap_or_default();
            let detail = format!("{OVERDUE}{console}");
            let teardown = end_vm(vm).await;
            Ok(Conclusion {
                is_overdue: true,
                ..Conclusion::of_host(ended_by, Some(code), &detail, teardown)
            })
        }
        Ok(OperationEnd::Stalled) => {
            let detail = "cancelled: its output was not read for 15 minutes";
            let teardown = end_vm(vm).await;
            Ok(Conclusion::of_host(
                EndedBy::Cancelled,
                Some(CANCELLED),
                detail,
                teardown,
            ))
        }
        Err(ChannelError::Violation(what)) => {
            end_vm(vm).await;
            // Nothing that the guest reported can be trusted: there is no outcome.
            let message = format!("the guest violated the protocol: {what}");
            Err(Error::new(ErrorKind::Protocol, message).after_start())
        }
        Err(ChannelError::Closed | ChannelError::Silent(_)) => {
            // The VM is gone: find out why.
            let detail = match (vm, lifetime) {
                (Some(vm), _) => vm.diagnose().await,
                (None, Some(lifetime)) => lifetime.end_reason().await,
                (None, None) => "the VM has ended".to_string(),
            };

            Ok(Conclusion::of_host(
                EndedBy::AgentLost,
                None,
                &detail,
                Duration::ZERO,
            ))
        }
    }
}

async fn end_vm(vm: Option<Vm>) -> Duration {
    match vm {
        Some(vm) => vm.end().await,
        None => Duration::ZERO,
    }
}

/// Converts the agent's rejection of a request to an error.
pub(crate) fn rejection(refusal: &ErrorMessage) -> Error {
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

    let message = format!(
        "the guest's agent rejected the request: {}",
        refusal.message
    );

    Error::new(kind, message).with_errno(refusal.errno)
}

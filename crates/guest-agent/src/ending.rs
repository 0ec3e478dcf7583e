use std::time::{Duration, Instant};

use fumehood_protocol::ErrorMessage;
use fumehood_protocol::{Complete, EndedBy, ErrorType, Evidence, ProcessKind, Response, WireError};

use crate::kept::Home;
use crate::operation::{End, Operation, Reason};
use crate::settings::VERSION;

/// Exit codes of programs that did not choose their own, as shells and `timeout` have them.
const TIMED_OUT: i32 = 124;
const SIGNALED: i32 = 128;
pub(crate) const CANCELLED: i32 = 130;
const SIGKILL: i32 = 9;

const CHOKED: &str = "memory was full and nothing got on, since programs' own code was dropped and \
     read again without end: the agent killed the largest process";
const DROPPED: &str =
    "cancelled after its end, while nobody took its output: the rest of it was dropped";

const LOST: &str = "the context's interpreter ended, and its state is lost";
const ANEW: &str = "the context's interpreter had ended since its last exec, and its state was lost: \
     this exec began it anew";

/// The last message of an operation whose process has ended.
pub(crate) fn response(operation: &Operation, end: &End) -> Response {
    let op_id = operation.framing.op_id;
    if let Some(failure) = operation.failure {
        let message = match operation.kind {
            ProcessKind::Spawn | ProcessKind::Install => {
                format!("the program could not be started: {failure}")
            }
            _ => format!(
                "the interpreter could not be started: {failure}; look at the guest's image"
            ),
        };
        let error = WireError::new(ErrorType::AgentError, message);
        return Response::Error(ErrorMessage::new(op_id, error, VERSION));
    }
    let (ended_by, exit_code) = verdict(operation, end);
    let [stdout, stderr, results] = operation
        .outputs
        .each_ref()
        .map(crate::output::OutputStream::summary);
    Response::Complete(Complete {
        op_id,
        exit_code,
        execution_time_ms: milliseconds(end.at - operation.arrived),
        spawn_ms: operation
            .ready
            .map(|ready| milliseconds(ready - operation.arrived)),
        process_ms: operation
            .ready
            .map(|ready: Instant| milliseconds(end.at - ready)),
        ended_by,
        evidence: evidence(operation, end),
        stdout,
        stderr,
        results,
    })
}

fn verdict(operation: &Operation, end: &End) -> (EndedBy, i32) {
    if let Some(stopping) = &operation.stopping {
        return match stopping.reason {
            Reason::Timeout => (EndedBy::Timeout, TIMED_OUT),
            Reason::Cancel => (EndedBy::Cancelled, CANCELLED),
        };
    }
    match (end.ended.code, end.ended.signal) {
        (_, Some(SIGKILL)) if oom_kills(operation, end) > 0 => {
            (EndedBy::OutOfMemory, SIGNALED + SIGKILL)
        }
        (_, Some(signal)) => (EndedBy::Signaled, SIGNALED + signal),
        (code, None) => (EndedBy::Exited, code.unwrap_or(0)),
    }
}

fn evidence(operation: &Operation, end: &End) -> Evidence {
    let some = |figure: u64| (figure > 0).then_some(figure);
    let lost = !operation.survived && matches!(operation.home(), Some(Home::Context(_)));
    let anew = operation.talk.as_ref().is_some_and(|talk| talk.anew);
    let details = [
        (operation.choked > 0, CHOKED),
        (operation.dropped, DROPPED),
        (anew, ANEW),
        (lost, LOST),
    ];
    let details = details
        .into_iter()
        .filter_map(|(is_so, text)| is_so.then_some(text));
    let detail = details.collect::<Vec<_>>().join("; ");
    Evidence {
        signal: end.ended.signal,
        oom_kills: some(oom_kills(operation, end)),
        peak_memory_bytes: end.usage.peak_memory_bytes,
        cpu_time_us: end.usage.cpu_time_us,
        left_processes: some(end.left_processes),
        detail: Some(detail).filter(|detail| !detail.is_empty()),
    }
}

/// Processes that were killed for want of memory, by the kernel or in its stead.
fn oom_kills(operation: &Operation, end: &End) -> u64 {
    end.usage.oom_kills + operation.choked
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

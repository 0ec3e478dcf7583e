use std::time::Duration;

use fumehood_protocol::{Complete, EndedBy, ErrorType, Evidence, ProcessKind, Response, WireError};

use fumehood_sys::guest::{LaunchFailure, Stage};

use super::operation::{Operation, ProgramEnd, StopReason};
use super::output::OutputStream;
use crate::interpreter::InterpreterSlot;
use crate::transport::error_response;

/// Exit codes of programs that did not choose their own, as shells and `timeout` define them.
const EXIT_TIMED_OUT: i32 = 124;
const EXIT_SIGNALED: i32 = 128;
pub(crate) const EXIT_CANCELLED: i32 = 130;
const SIGKILL: i32 = 9;
const SIGBUS: i32 = 7;

const MEMORY_STALLED: &str = "memory was full and no program made progress, because the kernel kept \
     dropping and rereading the programs' own code: the agent killed the largest process";
const OUTPUT_DROPPED: &str = "cancelled after the program had ended, while its output was not being read: the rest was dropped";
const SHARED_MEMORY_FULL: &str = "/dev/shm is full, and a program that maps a file there ends by SIGBUS when it uses more; \
     use less shared memory, or a sandbox with more memory";
const STATE_LOST: &str = "the context's interpreter ended, and its state is lost";
const STATE_WAS_LOST: &str = "the context's interpreter had ended since its last exec, and its state was \
     lost: this exec started a new one";

/// Returns the last message of an operation whose process has ended.
pub(crate) fn completion_response(operation: &Operation, end: &ProgramEnd) -> Response {
    let op_id = operation.framing.op_id;

    // The program never started.
    if let Some(failure) = operation.failure {
        return error_response(op_id, launch_error(operation.kind, failure));
    }

    let (ended_by, exit_code) = classify_end(operation, end);
    let [stdout, stderr, results] = operation.outputs.each_ref().map(OutputStream::summary);
    let (arrived, ready) = (operation.arrived, operation.ready);

    Response::Complete(Complete {
        op_id,
        exit_code,
        execution_time_ms: milliseconds(end.at - arrived),
        spawn_ms: ready.map(|ready| milliseconds(ready - arrived)),
        process_ms: ready.map(|ready| milliseconds(end.at - ready)),
        ended_by,
        evidence: evidence(operation, end),
        stdout,
        stderr,
        results,
    })
}

/// Returns why a program could not be started. A caller chooses the program of a spawn, and none of the others.
fn launch_error(kind: ProcessKind, failure: LaunchFailure) -> WireError {
    let started = match kind {
        ProcessKind::Spawn | ProcessKind::Install => "program",
        _ => "interpreter",
    };
    let message = format!("the {started} could not be started: {failure}");

    match kind {
        ProcessKind::Spawn if matches!(failure.stage, Stage::Directory | Stage::Execute) => {
            WireError::new(ErrorType::PathError, message).with_errno(failure.errno)
        }
        ProcessKind::Spawn | ProcessKind::Install => WireError::new(ErrorType::AgentError, message),
        _ => WireError::new(
            ErrorType::AgentError,
            format!("{message}; check the guest's image"),
        ),
    }
}

/// Returns why the program ended, and its exit code.
fn classify_end(operation: &Operation, end: &ProgramEnd) -> (EndedBy, i32) {
    if let Some(stopping) = &operation.stopping {
        return match stopping.reason {
            StopReason::Timeout => (EndedBy::Timeout, EXIT_TIMED_OUT),
            StopReason::Cancel => (EndedBy::Cancelled, EXIT_CANCELLED),
        };
    }

    match (end.ended.code, end.ended.signal) {
        (_, Some(SIGKILL)) if oom_kills(operation, end) > 0 => {
            (EndedBy::OutOfMemory, EXIT_SIGNALED + SIGKILL)
        }
        (_, Some(signal)) => (EndedBy::Signaled, EXIT_SIGNALED + signal),
        (code, None) => (EndedBy::Exited, code.unwrap_or(0)),
    }
}

fn evidence(operation: &Operation, end: &ProgramEnd) -> Evidence {
    let is_context = matches!(operation.slot(), Some(InterpreterSlot::Context(_)));
    let conversation = operation.conversation.as_ref();
    let details = [
        (operation.stalled_oom_kills > 0, MEMORY_STALLED),
        (operation.output_dropped, OUTPUT_DROPPED),
        (
            end.ended.signal == Some(SIGBUS) && is_shared_memory_full(),
            SHARED_MEMORY_FULL,
        ),
        (conversation.is_some_and(|c| c.state_lost), STATE_WAS_LOST),
        (is_context && !operation.interpreter_alive, STATE_LOST),
    ];

    let details = details
        .into_iter()
        .filter_map(|(applies, text)| applies.then_some(text));

    let detail = details.collect::<Vec<_>>().join("; ");

    // Counters of zero are left out.
    let non_zero = |count: u64| (count > 0).then_some(count);

    Evidence {
        signal: end.ended.signal,
        oom_kills: non_zero(oom_kills(operation, end)),
        peak_memory_bytes: end.usage.peak_memory_bytes,
        cpu_time_us: end.usage.cpu_time_us,
        left_processes: non_zero(end.left_processes),
        detail: Some(detail).filter(|detail| !detail.is_empty()),
    }
}

/// Whether /dev/shm has no free page.
fn is_shared_memory_full() -> bool {
    rustix::fs::statvfs("/dev/shm").is_ok_and(|disk| disk.f_blocks > 0 && disk.f_bavail == 0)
}

/// Counts the processes that were killed because memory was full, by the kernel or by the agent.
fn oom_kills(operation: &Operation, end: &ProgramEnd) -> u64 {
    end.usage.oom_kills + operation.stalled_oom_kills
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

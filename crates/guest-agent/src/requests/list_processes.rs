use std::time::Instant;

use fumehood_protocol::{ListProcesses, ProcessInfo, ProcessKind, Processes, Response};

use crate::agent::Agent;
use crate::interpreter::InterpreterSlot;
use crate::operation::Operation;
use crate::process::procfs;
use crate::transport::Connection;

/// Lists the processes that the agent has started and that have not ended.
pub(super) fn list_processes(
    connection: &mut Connection,
    request: &ListProcesses,
    agent: &mut Agent,
    now: Instant,
) {
    let running = agent.operations.iter().filter(|o| o.end.is_none());
    let mut processes: Vec<_> = running
        .map(|operation| describe_operation(operation, now))
        .collect();

    // Contexts between two execs.
    let contexts = agent.pool.idle_contexts();
    processes.extend(contexts.map(|(name, process)| ProcessInfo {
        pid: process.pid(),
        kind: ProcessKind::Context,
        command: procfs::command_line(process.pid()),
        context: Some(name.as_str().to_string()),
        tag: None,
        idempotency_key: None,
        attached: false,
        age_ms: procfs::age_ms(process.pid()),
        pids: process.pids(),
    }));

    let op_id = request.op_id;
    let processes = Processes { op_id, processes };
    connection.outbox.answer(&Response::Processes(processes));
}

fn describe_operation(operation: &Operation, now: Instant) -> ProcessInfo {
    let pid = operation.process.pid();
    let (kind, context) = match operation.slot() {
        Some(InterpreterSlot::Context(name)) => {
            (ProcessKind::Context, Some(name.as_str().to_string()))
        }
        _ => (operation.kind, None),
    };

    let age = now.saturating_duration_since(operation.arrived);

    ProcessInfo {
        pid,
        kind,
        command: procfs::command_line(pid),
        context,
        tag: operation.tag.clone(),
        idempotency_key: operation.keyed.as_ref().map(|keyed| keyed.key.clone()),
        attached: operation.client.is_some(),
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        pids: operation.process.pids(),
    }
}

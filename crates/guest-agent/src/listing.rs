use std::time::Instant;

use fumehood_protocol::{ListProcesses, ProcessInfo, ProcessKind, Processes, Response};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::kept::Home;
use crate::operation::Operation;
use crate::procfs;

/// Tells what the agent has started and what has not ended.
pub(crate) fn list_processes(
    connection: &mut Connection,
    request: &ListProcesses,
    agent: &mut Agent,
    now: Instant,
) {
    let running = agent.operations.iter().filter(|o| o.end.is_none());
    let mut processes: Vec<_> = running
        .map(|operation| running_one(operation, now))
        .collect();
    processes.extend(
        agent
            .kept
            .idle_contexts()
            .map(|(name, process)| ProcessInfo {
                pid: process.pid(),
                kind: ProcessKind::Context,
                command: procfs::command(process.pid()),
                context: Some(name.as_str().to_string()),
                tag: None,
                idempotency_key: None,
                attached: false,
                age_ms: procfs::age_ms(process.pid()),
                pids: process.pids(),
            }),
    );
    connection.outbox.answer(&Response::Processes(Processes {
        op_id: request.op_id,
        processes,
    }));
}

fn running_one(operation: &Operation, now: Instant) -> ProcessInfo {
    let pid = operation.process.pid();
    let (kind, context) = match operation.home() {
        Some(Home::Context(name)) => (ProcessKind::Context, Some(name.as_str().to_string())),
        _ => (operation.kind, None),
    };
    let age = now.saturating_duration_since(operation.arrived);
    ProcessInfo {
        pid,
        kind,
        command: procfs::command(pid),
        context,
        tag: operation.tag.clone(),
        idempotency_key: operation.keyed.as_ref().map(|keyed| keyed.key.clone()),
        attached: operation.client.is_some(),
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        pids: operation.process.pids(),
    }
}

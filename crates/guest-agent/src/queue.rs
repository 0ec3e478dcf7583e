use std::time::Instant;

use fumehood_protocol::{Complete, EndedBy, Evidence, Exec, Response, Started, StreamSummary};

use crate::agent::Agent;
use crate::begin::begin;
use crate::connection::Connection;
use crate::operation::{Operation, Terms};

/// An exec that waits for the one before it in its context.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) exec: Exec,
    pub(crate) terms: Terms,
}

impl Queued {
    /// Whether it waits for the context of `exec`.
    fn is_before(&self, exec: &Exec) -> bool {
        self.exec.context == exec.context
    }
}

/// Whether an exec must wait: another runs in its context, or waits for it.
pub(crate) fn must_wait(exec: &Exec, connection: &Connection, agent: &Agent) -> bool {
    let Some(name) = &exec.context else {
        return false;
    };
    agent.kept.is_busy(name) || connection.queue.iter().any(|queued| queued.is_before(exec))
}

/// Begins every exec whose context is free by now.
pub(crate) fn begin_queued(connection: &mut Connection, agent: &mut Agent, now: Instant) {
    let mut at = 0;
    while at < connection.queue.len() {
        let exec = &connection.queue[at].exec;
        let waits = exec
            .context
            .as_ref()
            .is_some_and(|name| agent.kept.is_busy(name))
            || connection.queue[..at]
                .iter()
                .any(|queued| queued.is_before(exec));
        if waits {
            at += 1;
            continue;
        }
        let Queued { exec, terms } = connection.queue.remove(at);
        let op_id = terms.op_id;
        // Its time runs from its beginning.
        let terms = Terms {
            arrived: now,
            ..terms
        };
        match begin(exec, agent) {
            Ok(begun) => {
                let operation = Operation::new(terms, begun, &agent.settings.limits);
                let pid = operation.process.pid();
                let started = Response::Started(Started { op_id, pid });
                connection.outbox.answer(&started);
                agent.operations.add(operation);
            }
            Err(error) => connection.outbox.refuse(op_id, error),
        }
    }
}

/// The end of an exec that never began: cancelled, and nothing of it has run.
pub(crate) fn cancel_queued(connection: &mut Connection, at: usize) {
    let queued = connection.queue.remove(at);
    let nothing = StreamSummary::default();
    connection.outbox.answer(&Response::Complete(Complete {
        op_id: queued.terms.op_id,
        exit_code: crate::ending::CANCELLED,
        execution_time_ms: 0,
        spawn_ms: None,
        process_ms: None,
        ended_by: EndedBy::Cancelled,
        evidence: Evidence {
            detail: Some("cancelled before it began".into()),
            ..Evidence::default()
        },
        stdout: nothing,
        stderr: nothing,
        results: nothing,
    }));
}

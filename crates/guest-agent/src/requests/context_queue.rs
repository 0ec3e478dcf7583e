use std::time::Instant;

use fumehood_protocol::{
    Complete, Detached, EndedBy, ErrorType, Evidence, Exec, IdempotencyKey, OpId, Queued, Response,
    Started, StreamSummary, WireError,
};

use super::exec_launch::prepare_launch;
use crate::agent::Agent;
use crate::operation::{EXIT_CANCELLED, Follower, Operation, OperationParams, QueuedExec};
use crate::transport::{ClientId, Encoding, error_response};

/// Whether an exec must wait, because another exec runs in its context or waits for it.
pub(super) fn must_wait(agent: &Agent, exec: &Exec) -> bool {
    let Some(name) = &exec.context else {
        return false;
    };
    let mut queued = agent.queue.iter();
    agent.pool.is_busy(name) || queued.any(|queued| queued.exec.context == exec.context)
}

/// Queues an exec, and notifies a client whose protocol version knows that message.
///
/// # Errors
/// `busy_error`: the queued execs hold too much memory already.
pub(super) fn enqueue(
    agent: &mut Agent,
    exec: Exec,
    params: OperationParams,
) -> Result<(), WireError> {
    let queued = QueuedExec {
        exec,
        params,
        input: Vec::new(),
        has_ended_input: false,
    };

    // A queue must not hold more memory than one request may.
    let bytes = queued.bytes() + agent.queue.iter().map(QueuedExec::bytes).sum::<u64>();
    let max = agent.settings.limits.line_bytes;
    if bytes > max {
        let message = format!(
            "the execs that wait for their contexts hold {bytes} bytes, of at most {max}; \
             try again when one has started"
        );
        return Err(WireError::new(ErrorType::BusyError, message));
    }

    let params = &queued.params;
    if let (Some(client), true) = (params.client, params.encoding != Encoding::Text) {
        let op_id = params.op_id;
        let notice = Response::Queued(Queued { op_id });
        agent.notices.push((client, notice));
    }

    agent.queue.push(queued);

    Ok(())
}

/// Attaches a client to a queued exec, in place of the client that was waiting for it.
pub(super) fn attach_queued(
    agent: &mut Agent,
    client: ClientId,
    key: &IdempotencyKey,
    follower: Follower,
) {
    let Some(queued) = agent.queue.with_key(key) else {
        return;
    };

    // The new client counts input from zero, so earlier input is dropped.
    let params = &mut queued.params;
    let previous = (params.client, params.op_id);
    params.client = Some(client);
    params.op_id = follower.op_id;
    params.encoding = follower.encoding;
    params.credit = follower.credit;
    queued.input.clear();
    queued.has_ended_input = false;

    if let (Some(client), op_id) = previous {
        let notice = Response::Detached(Detached { op_id });
        agent.notices.push((client, notice));
    }

    let op_id = follower.op_id;
    let notice = Response::Queued(Queued { op_id });
    agent.notices.push((client, notice));
}

/// Whether a queued exec could start now.
pub(crate) fn can_start_queued(agent: &Agent) -> bool {
    (0..agent.queue.len()).any(|at| is_ready(agent, at))
}

/// Whether the context of a queued exec is free, and no earlier exec waits for it.
fn is_ready(agent: &Agent, at: usize) -> bool {
    let context = &agent.queue.get(at).exec.context;
    let is_busy = context
        .as_ref()
        .is_some_and(|name| agent.pool.is_busy(name));
    let mut earlier = agent.queue.iter().take(at);
    !is_busy && !earlier.any(|queued| queued.exec.context == *context)
}

/// Starts every queued exec whose context has become free.
pub(crate) fn start_queued(agent: &mut Agent, now: Instant) {
    let mut at = 0;
    while at < agent.queue.len() {
        if is_ready(agent, at) {
            let queued = agent.queue.remove_at(at);
            start_one(agent, queued, now);
        } else {
            at += 1;
        }
    }
}

fn start_one(agent: &mut Agent, queued: QueuedExec, now: Instant) {
    let (client, op_id) = (queued.params.client, queued.params.op_id);
    let is_notified = queued.params.encoding != Encoding::Text;
    // The timeout starts with the program, not with the request.
    let params = OperationParams {
        arrived: now,
        ..queued.params
    };

    let notice = match prepare_launch(queued.exec, agent) {
        Ok(launch) => {
            let mut operation = Operation::for_exec(params, launch, &agent.settings.limits);
            if let Some(input) = &mut operation.input {
                // This cannot fail: no more input than the credit allows was queued.
                let _ = input.accept(queued.input, queued.has_ended_input);
            }

            let pid = operation.process.pid();
            agent.operations.add(operation);
            is_notified.then_some(Response::Started(Started { op_id, pid }))
        }
        Err(error) => Some(error_response(op_id, error)),
    };

    agent.notices.extend(client.zip(notice));
}

/// Cancels a queued exec; nothing of it has run. Returns `false` if none has this id.
pub(super) fn cancel_queued(agent: &mut Agent, client: ClientId, id: OpId) -> bool {
    let Some(queued) = agent.queue.remove(client, id) else {
        return false;
    };

    let nothing = StreamSummary::default();
    let complete = Complete {
        op_id: queued.params.op_id,
        exit_code: EXIT_CANCELLED,
        execution_time_ms: 0,
        spawn_ms: None,
        process_ms: None,
        ended_by: EndedBy::Cancelled,
        evidence: Evidence {
            detail: Some("cancelled before it started".into()),
            ..Evidence::default()
        },
        stdout: nothing,
        stderr: nothing,
        results: nothing,
    };
    agent.notices.push((client, Response::Complete(complete)));

    true
}

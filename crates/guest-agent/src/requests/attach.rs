use fumehood_protocol::{
    Attach, Attached, Detach, Detached, ErrorType, IdempotencyKey, Request, Response, WireError,
};

use super::admission::check_operation_limit;
use super::client::Client;
use super::context_queue::attach_queued;
use crate::agent::Agent;
use crate::operation::{Follower, KeyedRequest, Operation, Replay};
use crate::transport::Connection;

/// Bytes of the longest character. A piece of text can exceed a chunk by nearly as many.
const MAX_CHARACTER_BYTES: u64 = 4;

/// The result of looking up an idempotency key.
pub(super) struct KeyLookup {
    pub(super) keyed: KeyedRequest,
    /// Its operation is queued, is running or has ended. It must not start again.
    pub(super) is_known: bool,
}

/// Looks up the key of a request, and rejects a new key that cannot be recorded.
///
/// # Errors
/// `request_error`: the key was used for another request; `busy_error`: there is no capacity for a
/// new key.
pub(super) fn look_up_key(
    key: &IdempotencyKey,
    request: &Request,
    agent: &mut Agent,
) -> Result<KeyLookup, WireError> {
    let keyed = KeyedRequest::new(key.clone(), request);

    // It may be running, have ended, or still be queued.
    let running = agent.operations.with_key(key);
    let known = running
        .and_then(|operation| operation.keyed.clone())
        .or_else(|| agent.journal.get(key).map(|record| record.keyed.clone()))
        .or_else(|| agent.queue.with_key(key)?.params.keyed.clone());

    if let Some(known) = &known {
        known.check_same(&keyed)?;
    } else {
        let with_key = agent.operations.iter().filter(|o| o.keyed.is_some());
        let running = with_key.count() + agent.queue.keys();
        agent
            .journal
            .check_capacity(running, &agent.settings.limits)?;
    }

    Ok(KeyLookup {
        keyed,
        is_known: known.is_some(),
    })
}

/// Attaches a client to a detached operation, or to the record of one that has ended.
///
/// # Errors
/// `request_error`: no operation has this key, or a number is out of range.
pub(super) fn attach(
    client: &mut Client,
    request: &Attach,
    agent: &mut Agent,
) -> Result<(), WireError> {
    request.idempotency_key.check(&agent.settings.limits)?;
    let follower = Follower {
        op_id: request.op_id,
        encoding: client.connection.session.encoding,
        credit: request.credit,
        from_seq: request.from_seq,
    };

    attach_to(client, &request.idempotency_key, follower, agent)
}

/// Attaches a client to the operation with this key, wherever it is: queued, running or ended.
///
/// # Errors
/// As [`attach`].
pub(super) fn attach_to(
    client: &mut Client,
    key: &IdempotencyKey,
    follower: Follower,
    agent: &mut Agent,
) -> Result<(), WireError> {
    let reject = |message: String| Err(WireError::new(ErrorType::RequestError, message));
    check_operation_limit(client, agent)?;

    // Recorded pieces are sent whole: with less credit the replay could never continue.
    let min = agent.settings.limits.chunk_bytes + MAX_CHARACTER_BYTES;

    if let Some(credit) = follower.credit.filter(|credit| *credit < min) {
        return reject(format!(
            "field `credit`: {credit} bytes; at least {min} are needed, since pieces are sent whole"
        ));
    }

    let reject_seq = |end: u64| {
        reject(format!(
            "field `from_seq`: {} is past the {end} pieces that exist so far",
            follower.from_seq
        ))
    };

    let op_id = follower.op_id;
    let attached = |seq, pid, input: Option<(u64, u64)>| {
        Response::Attached(Attached {
            op_id,
            seq,
            pid,
            input_bytes: input.map(|(total, _)| total),
            input_credit: input.map(|(_, credit)| credit),
        })
    };

    let connection = &mut client.connection;
    if agent.queue.with_key(key).is_some() {
        attach_queued(agent, connection.id, key, follower);
        return Ok(());
    }

    if let Some(operation) = agent.operations.with_key(key) {
        if follower.from_seq > operation.framing.seq {
            return reject_seq(operation.framing.seq);
        }

        let previous = (operation.client, operation.framing.op_id);
        let seq = operation.attach_client(connection.id, follower, &agent.settings.limits);
        let input = operation.input.as_ref();
        let input = input.map(|input| (input.total, input.credit_left()));
        let pid = Some(operation.process.pid());

        // The client that followed it before learns that it no longer does.
        if let (Some(previous), op_id) = previous {
            let detached = Response::Detached(Detached { op_id });
            if previous == connection.id {
                connection.outbox.answer(&detached);
            } else {
                agent.notices.push((previous, detached));
            }
        }

        connection.outbox.answer(&attached(seq, pid, input));
        return Ok(());
    }

    if let Some(record) = agent.journal.get(key) {
        let end = record.history.end();
        if follower.from_seq > end {
            return reject_seq(end);
        }

        let replay = Replay::new(record, follower);
        connection
            .outbox
            .answer(&attached(replay.seq(), None, None));
        client.replays.push(replay);
        return Ok(());
    }

    reject(format!(
        "no operation in this guest has the idempotency key `{}`; it may predate the guest's snapshot",
        key.as_str()
    ))
}

/// Detaches the client from an operation, which continues.
///
/// # Errors
/// `request_error`: the operation has no key, so no client could attach to it again.
pub(super) fn detach(
    connection: &mut Connection,
    request: &Detach,
    agent: &mut Agent,
) -> Result<(), WireError> {
    // An operation that has ended needs no detaching.
    let running = agent.operations.find(connection.id, request.op_id);
    let queued = agent.queue.find(connection.id, request.op_id);
    let has_key = match (&running, &queued) {
        (Some(operation), _) => operation.keyed.is_some(),
        (None, Some(queued)) => queued.params.keyed.is_some(),
        (None, None) => return Ok(()),
    };

    if !has_key {
        let message = "the operation has no idempotency key, so no client could attach to it again; \
             start it with a key";
        return Err(WireError::new(ErrorType::RequestError, message));
    }

    // From now on the output is only recorded.
    running.into_iter().for_each(Operation::detach);
    if let Some(queued) = queued {
        queued.params.client = None;
        queued.params.credit = None;
    }

    let op_id = Some(request.op_id);
    connection
        .outbox
        .answer(&Response::Detached(Detached { op_id }));

    Ok(())
}

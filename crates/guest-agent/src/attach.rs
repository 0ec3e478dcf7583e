use fumehood_protocol::{
    Attach, Attached, Detach, Detached, ErrorType, IdempotencyKey, Request, Response, WireError,
};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::dispatch::room;
use crate::following::Follower;
use crate::journal::Keyed;
use crate::operation::Operation;
use crate::replay::Replay;

/// Bytes of the longest character: a piece of text can be longer than a chunk by nearly as many.
const CHARACTER: u64 = 4;

/// A key that came with a request.
pub(crate) struct Admitted {
    pub(crate) keyed: Keyed,
    /// Its operation runs, or has ended: it is not begun.
    pub(crate) is_known: bool,
}

/// Looks a key up, and refuses what cannot be remembered.
///
/// # Errors
/// `request_error`: it was used for another request; `busy_error`: there is no room for a new key.
pub(crate) fn admit_key(
    key: &IdempotencyKey,
    request: &Request,
    agent: &mut Agent,
) -> Result<Admitted, WireError> {
    let keyed = Keyed::new(key.clone(), request);
    let running = agent.operations.with_key(key);
    let known = match running.and_then(|operation| operation.keyed.clone()) {
        Some(known) => Some(known),
        None => agent.journal.get(key).map(|record| record.keyed.clone()),
    };
    let queued = agent.queue.with_key(key);
    let known = known.or_else(|| queued.and_then(|queued| queued.terms.keyed.clone()));
    match &known {
        Some(known) => known.same(&keyed)?,
        None => {
            let with_key = agent.operations.iter().filter(|o| o.keyed.is_some());
            agent.journal.admit(
                with_key.count() + agent.queue.keys(),
                &agent.settings.limits,
            )?;
        }
    }
    Ok(Admitted {
        keyed,
        is_known: known.is_some(),
    })
}

/// Follows an operation that was left, or its record.
///
/// # Errors
/// `request_error`: there is none of this key, or the figures are out of range.
pub(crate) fn attach(
    connection: &mut Connection,
    request: &Attach,
    agent: &mut Agent,
) -> Result<(), WireError> {
    request.idempotency_key.check(&agent.settings.limits)?;
    let follower = Follower {
        op_id: request.op_id,
        encoding: connection.session.encoding,
        credit: request.credit,
        from_seq: request.from_seq,
    };
    attach_to(connection, &request.idempotency_key, follower, agent)
}

/// The same, for who knows the key.
///
/// # Errors
/// As [`attach`].
pub(crate) fn attach_to(
    connection: &mut Connection,
    key: &IdempotencyKey,
    follower: Follower,
    agent: &mut Agent,
) -> Result<(), WireError> {
    let refuse = |message: String| Err(WireError::new(ErrorType::RequestError, message));
    room(connection, agent)?;
    let least = agent.settings.limits.chunk_bytes + CHARACTER;
    if let Some(credit) = follower.credit.filter(|credit| *credit < least) {
        return refuse(format!(
            "field `credit`: {credit} bytes; at least {least} are needed, since a piece is told as a whole"
        ));
    }
    let later = |end: u64| {
        refuse(format!(
            "field `from_seq`: {}; there are {end} pieces so far",
            follower.from_seq
        ))
    };
    let op_id = follower.op_id;
    let told = |seq, pid, input: Option<(u64, u64)>| {
        Response::Attached(Attached {
            op_id,
            seq,
            pid,
            input_bytes: input.map(|(total, _)| total),
            input_credit: input.map(|(_, credit)| credit),
        })
    };
    if agent.queue.with_key(key).is_some() {
        agent.take_over_queued(connection.id, key, follower);
        return Ok(());
    }
    if let Some(operation) = agent.operations.with_key(key) {
        if follower.from_seq > operation.framing.seq {
            return later(operation.framing.seq);
        }
        let before = (operation.client, operation.framing.op_id);
        let seq = operation.follow(connection.id, follower, &agent.settings.limits);
        let input = operation
            .input
            .as_ref()
            .map(|input| (input.total, input.allowed()));
        let pid = Some(operation.process.pid());
        match before {
            (Some(client), op_id) if client == connection.id => {
                connection
                    .outbox
                    .answer(&Response::Detached(Detached { op_id }));
            }
            (Some(client), op_id) => {
                let detached = Response::Detached(Detached { op_id });
                agent.notices.push((client, detached));
            }
            (None, _) => {}
        }
        connection.outbox.answer(&told(seq, pid, input));
        return Ok(());
    }
    if let Some(record) = agent.journal.get(key) {
        let end = record.pieces.end();
        if follower.from_seq > end {
            return later(end);
        }
        let replay = Replay::new(record, follower);
        connection.outbox.answer(&told(replay.seq(), None, None));
        connection.replays.push(replay);
        return Ok(());
    }
    refuse(format!(
        "no operation has the idempotency key `{}`: it was never begun here, or before this guest was made",
        key.as_str()
    ))
}

/// Leaves an operation to itself.
///
/// # Errors
/// `request_error`: it has no key, so that nobody could find it again.
pub(crate) fn detach(
    connection: &mut Connection,
    request: &Detach,
    agent: &mut Agent,
) -> Result<(), WireError> {
    let running = agent.operations.find(connection.id, request.op_id);
    let queued = agent.queue.find(connection.id, request.op_id);
    let has_key = match (&running, &queued) {
        (Some(operation), _) => operation.keyed.is_some(),
        (None, Some(queued)) => queued.terms.keyed.is_some(),
        (None, None) => return Ok(()),
    };
    if !has_key {
        let message =
            "the operation has no idempotency key, and could not be found again; begin it with one";
        return Err(WireError::new(ErrorType::RequestError, message));
    }
    running.into_iter().for_each(Operation::leave);
    if let Some(queued) = queued {
        queued.terms.client = None;
        queued.terms.credit = None;
    }
    let op_id = Some(request.op_id);
    connection
        .outbox
        .answer(&Response::Detached(Detached { op_id }));
    Ok(())
}

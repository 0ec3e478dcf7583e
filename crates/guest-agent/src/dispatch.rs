use std::time::{Duration, Instant};

use fumehood_protocol::{
    ActionTag, Chunk, CloseContext, Done, ErrorType, Exec, InputData, OpId, Ping, Pong,
    ProcessKind, Request, Resize, Response, SendSignal, Stdin, WireError,
};
use rustix::process::Signal;

use crate::agent::Agent;
use crate::attach::{admit_key, attach, attach_to, detach};
use crate::begin::begin;
use crate::connection::{Connection, Incoming};
use crate::files;
use crate::following::Follower;
use crate::freshness::{admits, quiesce, refresh};
use crate::hello::hello;
use crate::install::install_packages;
use crate::listing::list_processes;
use crate::operation::{Operation, Reason, Terms};
use crate::program::{enter, spawn};
use crate::settings::VERSION;

/// Answers one request, or begins what will.
pub(crate) fn dispatch(
    connection: &mut Connection,
    incoming: Incoming,
    agent: &mut Agent,
    now: Instant,
) {
    let Incoming { op_id, request } = incoming;
    // An error ends the operation of its id, which this is not.
    let about_another = request
        .as_ref()
        .is_ok_and(Request::targets_running_operation);
    let op_id = op_id.filter(|_| !about_another);
    let result = request
        .and_then(|request| admitted(connection, request, agent))
        .and_then(|request| match request {
            // Its bytes follow, whatever becomes of them.
            Request::Data(data) if data.len > 0 => connection
                .announce(data, &agent.settings.limits)
                .map(|()| None),
            request => admits(agent, &request).map(|()| Some(request)),
        })
        .and_then(|request| match request {
            Some(request) => answer(connection, request, agent, now),
            None => Ok(()),
        });
    if let Err(error) = result {
        connection.outbox.refuse(op_id, error);
    }
}

fn answer(
    connection: &mut Connection,
    request: Request,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    let is_lasting = matches!(
        request,
        Request::WriteFile(_) | Request::ReadFile(_) | Request::ListFiles(_) | Request::Watch(_)
    );
    if is_lasting {
        room(connection, agent)?;
    }
    match request {
        Request::Ping(request) => ping(connection, &request),
        Request::Hello(request) => hello(connection, &request, agent)?,
        Request::Exec(request) => exec(connection, request, agent, now)?,
        Request::Spawn(request) => spawn(connection, request, agent, now)?,
        Request::Stdin(request) => input(connection, request, agent)?,
        Request::Data(request) => data(connection, request, agent)?,
        Request::Signal(request) => signal(connection, &request, agent)?,
        Request::Resize(request) => resize(connection, &request, agent),
        Request::Cancel(request) => cancel(connection, request.op_id, agent, now),
        Request::Credit(request) => credit(connection, request.op_id, request.bytes, agent),
        Request::Detach(request) => detach(connection, &request, agent)?,
        Request::Attach(request) => attach(connection, &request, agent)?,
        Request::ListProcesses(request) => list_processes(connection, &request, agent, now),
        Request::CloseContext(request) => close_context(connection, &request, agent)?,
        Request::InstallPackages(request) => install_packages(connection, &request, agent, now)?,
        Request::Quiesce(request) => quiesce(connection, &request, agent)?,
        Request::Refresh(request) => refresh(connection, &request, agent)?,
        Request::WriteFile(request) => files::write(connection, request, agent)?,
        Request::ReadFile(request) => files::read(connection, request, agent)?,
        Request::ListFiles(request) => files::list(connection, request, agent)?,
        Request::Stat(request) => files::stat(connection, &request, agent)?,
        Request::MakeDir(request) => files::make_dir(connection, &request, agent)?,
        Request::Move(request) => files::move_file(connection, &request, agent)?,
        Request::Remove(request) => files::remove(connection, request, agent)?,
        Request::Watch(request) => files::watch(connection, request, agent)?,
    }
    Ok(())
}

/// The request, if this client may make it now.
fn admitted(
    connection: &Connection,
    request: Request,
    agent: &Agent,
) -> Result<Request, WireError> {
    if matches!(request, Request::Hello(_)) {
        return Ok(request);
    }
    if !connection.session.authorised {
        let message = "say `hello` with the right token first";
        return Err(WireError::new(ErrorType::AuthError, message));
    }
    match request
        .op_id()
        .filter(|id| !request.targets_running_operation() && connection.is_live(*id, agent))
    {
        None => Ok(request),
        Some(id) => {
            let message = format!(
                "field `op_id`: {id} belongs to an operation that has not ended; use another"
            );
            Err(WireError::new(ErrorType::RequestError, message))
        }
    }
}

fn ping(connection: &mut Connection, ping: &Ping) {
    let pong = Pong {
        op_id: ping.op_id,
        version: VERSION.to_string(),
    };
    connection.outbox.answer(&Response::Pong(pong));
}

/// Refuses one operation more than there may be.
///
/// # Errors
/// `busy_error`.
pub(crate) fn room(connection: &Connection, agent: &Agent) -> Result<(), WireError> {
    let (live, most) = (
        connection.live(agent) as u64,
        agent.settings.limits.operations,
    );
    if live < most {
        return Ok(());
    }
    let message = format!(
        "{live} operations are running on this connection; at most {most} may; try again when one has ended"
    );
    Err(WireError::new(ErrorType::BusyError, message))
}

/// Refuses what waits for input that nobody can send: that names its operation.
///
/// # Errors
/// `request_error`.
pub(crate) fn can_be_fed(takes_input: bool, op_id: Option<OpId>) -> Result<(), WireError> {
    if !takes_input || op_id.is_some() {
        return Ok(());
    }
    let message = "field `op_id` is missing: without it no input can be sent";
    Err(WireError::new(ErrorType::RequestError, message))
}

fn exec(
    connection: &mut Connection,
    exec: Exec,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    exec.check(&agent.settings.limits)?;
    can_be_fed(exec.stdin, exec.op_id)?;
    let mut keyed = None;
    if let Some(key) = &exec.idempotency_key {
        let same = Exec {
            op_id: None,
            credit: None,
            ..exec.clone()
        };
        let known = admit_key(key, &Request::Exec(same), agent)?;
        if known.is_known {
            let follower = Follower {
                op_id: exec.op_id,
                encoding: connection.session.encoding,
                credit: exec.credit,
                from_seq: 0,
            };
            return attach_to(connection, key, follower, agent);
        }
        keyed = Some(known.keyed);
    }
    room(connection, agent)?;
    if let Some(path) = &exec.cwd {
        enter(path, agent)?;
    }
    let limits = &agent.settings.limits;
    let terms = Terms {
        client: Some(connection.id),
        keyed,
        tag: None,
        kind: ProcessKind::Exec,
        op_id: exec.op_id,
        encoding: connection.session.encoding,
        credit: exec.credit,
        timeout: Some(Duration::from_secs(exec.timeout_s(limits)?)),
        arrived: now,
    };
    if agent.must_wait(&exec) {
        return agent.wait(exec, terms);
    }
    let begun = begin(exec, agent)?;
    let operation = Operation::new(terms, begun, &agent.settings.limits);
    agent.operations.add(operation);
    Ok(())
}

fn cancel(connection: &mut Connection, id: OpId, agent: &mut Agent, now: Instant) {
    let limits = &agent.settings.limits;
    if let Some(operation) = agent.operations.find(connection.id, id) {
        operation.stop(Reason::Cancel, limits, now);
    } else if !agent.cancel_queued(connection.id, id) {
        let replays = &mut connection.replays;
        let replay = replays.iter_mut().find(|replay| replay.op_id() == Some(id));
        replay.into_iter().for_each(crate::replay::Replay::cancel);
        let transfers = &mut connection.transfers;
        if let Some(at) = transfers.iter().position(|t| t.op_id() == Some(id)) {
            transfers.remove(at).cancel(&mut connection.outbox);
        }
    }
}

/// Input for an operation; for one that has none, or has ended, it is dropped.
fn input(connection: &mut Connection, stdin: Stdin, agent: &mut Agent) -> Result<(), WireError> {
    let bytes = stdin.chunk.map(Chunk::into_bytes).unwrap_or_default();
    let mut transfers = connection.transfers.iter();
    if let Some(at) = transfers.position(|t| t.op_id() == Some(stdin.op_id)) {
        let transfer = connection.transfers.remove(at);
        let transfer = transfer.take(&bytes, stdin.eof, &mut connection.outbox, agent);
        connection.transfers.extend(transfer);
        return Ok(());
    }
    if let Some(queued) = agent.queue.find(connection.id, stdin.op_id) {
        let most = agent.settings.limits.input_bytes;
        if (queued.input.len() + bytes.len()) as u64 > most {
            let message = format!("more than {most} bytes of input, without credit for it");
            return Err(WireError::new(ErrorType::ProtocolError, message));
        }
        queued.input.extend_from_slice(&bytes);
        queued.has_ended_input |= stdin.eof;
        return Ok(());
    }
    let operation = agent.operations.find(connection.id, stdin.op_id);
    match operation.and_then(|operation| operation.input.as_mut()) {
        Some(input) => input.take(bytes, stdin.eof),
        None => Ok(()),
    }
}

/// A raw frame of input without bytes has come already.
fn data(connection: &mut Connection, data: InputData, agent: &mut Agent) -> Result<(), WireError> {
    let (op_id, eof) = (data.op_id, data.eof);
    let nothing = Stdin {
        action: ActionTag,
        op_id,
        chunk: None,
        eof,
    };
    input(connection, nothing, agent)
}

fn signal(
    connection: &Connection,
    request: &SendSignal,
    agent: &mut Agent,
) -> Result<(), WireError> {
    let number = request.signal.number()?;
    let operation = agent.operations.find(connection.id, request.op_id);
    if let (Some(operation), Some(signal)) = (
        operation.filter(|operation| operation.end.is_none()),
        Signal::from_named_raw(number),
    ) {
        operation.process.signal(signal);
    }
    Ok(())
}

fn resize(connection: &Connection, request: &Resize, agent: &mut Agent) {
    let operation = agent.operations.find(connection.id, request.op_id);
    if let Some(input) = operation.and_then(|operation| operation.input.as_ref()) {
        input.resize(request.rows, request.cols);
    }
}

fn credit(connection: &mut Connection, id: OpId, bytes: u64, agent: &mut Agent) {
    if let Some(operation) = agent.operations.find(connection.id, id) {
        operation.add_credit(bytes);
    }
    if let Some(queued) = agent.queue.find(connection.id, id) {
        let credit = &mut queued.terms.credit;
        *credit = credit.map(|credit| credit.saturating_add(bytes));
    }
    let replays = connection.replays.iter_mut();
    for replay in replays.filter(|replay| replay.op_id() == Some(id)) {
        replay.add_credit(bytes);
    }
    let transfers = connection.transfers.iter_mut();
    for transfer in transfers.filter(|transfer| transfer.op_id() == Some(id)) {
        transfer.add_credit(bytes);
    }
}

fn close_context(
    connection: &mut Connection,
    request: &CloseContext,
    agent: &mut Agent,
) -> Result<(), WireError> {
    request.context.check(&agent.settings.limits)?;
    if agent.kept.is_busy(&request.context) {
        let message = format!(
            "an exec runs in the context `{}`; cancel it first, or wait for its end",
            request.context.as_str()
        );
        return Err(WireError::new(ErrorType::BusyError, message));
    }
    if let Some(interpreter) = agent.kept.close(&request.context) {
        interpreter.process.kill();
        agent.abandoned.push(interpreter.process);
    }
    let op_id = request.op_id;
    connection.outbox.answer(&Response::Done(Done { op_id }));
    Ok(())
}

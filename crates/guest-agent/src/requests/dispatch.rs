use std::time::Instant;

use fumehood_protocol::{
    ActionTag, Chunk, CloseContext, Done, ErrorType, InputData, OpId, Ping, Pong, Request, Resize,
    Response, SendSignal, Stdin, WireError,
};
use rustix::process::Signal;

use super::admission::{check_operation_limit, check_refreshed, check_session};
use super::attach::{attach, detach};
use super::client::Client;
use super::context_queue::{cancel_queued, start_queued};
use super::exec::exec;
use super::hello::hello;
use super::install_packages::install_packages;
use super::list_processes::list_processes;
use super::refresh::{quiesce, refresh};
use super::spawn::spawn;
use super::{files, files_metadata};
use crate::agent::Agent;
use crate::operation::{Replay, StopReason};
use crate::settings::VERSION;
use crate::transport::{Connection, IncomingRequest};

/// Gives a client its turn: handles its requests, moves output, completes ended operations, and
/// sends as much as the client accepts.
pub(crate) fn serve(client: &mut Client, agent: &mut Agent, now: Instant) {
    client.connection.check_deadline(now);

    dispatch_all(client, agent, now);
    client.pump(agent, now);
    client.complete_finished(agent);

    // An ended operation may let a queued exec start, and a waiting request continue.
    start_queued(agent, now);
    dispatch_all(client, agent, now);

    client.connection.send();

    if client.connection.is_gone() {
        client.leave(agent);
    }
}

fn dispatch_all(client: &mut Client, agent: &mut Agent, now: Instant) {
    while let Some(incoming) = client.next_request(agent) {
        dispatch(client, incoming, agent, now);
    }
}

/// Handles one request: answers it, or starts the operation that will.
fn dispatch(client: &mut Client, incoming: IncomingRequest, agent: &mut Agent, now: Instant) {
    let IncomingRequest { op_id, request } = incoming;
    // An error with an `op_id` ends that operation. A request about another operation must not.
    let targets_running_operation = request
        .as_ref()
        .is_ok_and(Request::targets_running_operation);

    let op_id = op_id.filter(|_| !targets_running_operation);

    let result = request
        .and_then(|request| check_session(client, request, agent))
        .and_then(|request| match request {
            // The frame's bytes follow, so they must be expected before any other check.
            Request::Data(data) if data.len > 0 => client
                .connection
                .expect_frame(data, &agent.settings.limits)
                .map(|()| None),
            request => check_refreshed(agent, &request).map(|()| Some(request)),
        })
        .and_then(|request| match request {
            Some(request) => handle(client, request, agent, now),
            None => Ok(()),
        });

    if let Err(error) = result {
        // Nor may an error for another request with the number of an operation that is running.
        let op_id = op_id.filter(|id| !client.is_live(*id, agent));
        client.connection.outbox.push_error(op_id, error);
    }
}

fn handle(
    client: &mut Client,
    request: Request,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    let is_transfer = matches!(
        request,
        Request::WriteFile(_) | Request::ReadFile(_) | Request::ListFiles(_) | Request::Watch(_)
    );

    // Transfers count as operations; programs are counted by their handlers.
    if is_transfer {
        check_operation_limit(client, agent)?;
    }

    let connection = &mut client.connection;
    match request {
        Request::Ping(request) => ping(connection, &request),
        Request::Hello(request) => hello(client, &request, agent)?,
        Request::Exec(request) => exec(client, request, agent, now)?,
        Request::Spawn(request) => spawn(client, request, agent, now)?,
        Request::Stdin(request) => take_input(client, request, agent)?,
        Request::Data(request) => take_empty_frame(client, request, agent)?,
        Request::Signal(request) => signal(connection, &request, agent)?,
        Request::Resize(request) => resize(connection, &request, agent),
        Request::Cancel(request) => cancel(client, request.op_id, agent, now),
        Request::Credit(request) => add_credit(client, request.op_id, request.bytes, agent),
        Request::Detach(request) => detach(connection, &request, agent)?,
        Request::Attach(request) => attach(client, &request, agent)?,
        Request::ListProcesses(request) => list_processes(connection, &request, agent, now),
        Request::CloseContext(request) => close_context(connection, &request, agent)?,
        Request::InstallPackages(request) => install_packages(client, &request, agent, now)?,
        Request::Quiesce(request) => quiesce(client, &request, agent)?,
        Request::Refresh(request) => refresh(connection, &request, agent)?,
        Request::WriteFile(request) => files::write(client, request, agent)?,
        Request::ReadFile(request) => files::read(client, request, agent)?,
        Request::ListFiles(request) => files::list(client, request, agent)?,
        Request::Stat(request) => files_metadata::stat(connection, &request, agent)?,
        Request::MakeDir(request) => files_metadata::make_dir(connection, &request, agent)?,
        Request::Move(request) => files_metadata::move_file(connection, &request, agent)?,
        Request::Remove(request) => files::remove(client, request, agent)?,
        Request::Watch(request) => files::watch(client, request, agent)?,
    }

    Ok(())
}

fn ping(connection: &mut Connection, ping: &Ping) {
    let pong = Pong {
        op_id: ping.op_id,
        version: VERSION.to_string(),
    };
    connection.outbox.answer(&Response::Pong(pong));
}

/// Cancels the operation with this id: a running operation, a queued exec, a replay or a file transfer.
fn cancel(client: &mut Client, id: OpId, agent: &mut Agent, now: Instant) {
    let connection = &mut client.connection;
    let limits = &agent.settings.limits;

    if let Some(operation) = agent.operations.find(connection.id, id) {
        operation.stop(StopReason::Cancel, limits, now);
        return;
    }

    if cancel_queued(agent, connection.id, id) {
        return;
    }

    let mut replays = client.replays.iter_mut();
    let replay = replays.find(|replay| replay.op_id() == Some(id));
    replay.into_iter().for_each(Replay::cancel);

    let mut transfers = client.transfers.iter();

    if let Some(at) = transfers.position(|t| t.op_id() == Some(id)) {
        client.transfers.remove(at).cancel(&mut connection.outbox);
    }
}

/// Passes input to its operation. Input for an operation that takes none, or has ended, is dropped.
fn take_input(client: &mut Client, stdin: Stdin, agent: &mut Agent) -> Result<(), WireError> {
    let id = client.connection.id;
    let bytes = stdin.chunk.map(Chunk::into_bytes).unwrap_or_default();

    // A file that is being written.
    let mut transfers = client.transfers.iter();

    if let Some(at) = transfers.position(|t| t.op_id() == Some(stdin.op_id)) {
        let transfer = client.transfers.remove(at);
        let outbox = &mut client.connection.outbox;
        let transfer = transfer.take(&bytes, stdin.eof, outbox, agent);
        client.transfers.extend(transfer);
        return Ok(());
    }

    // An exec that waits for its context keeps the input until it starts.
    if let Some(queued) = agent.queue.find(id, stdin.op_id) {
        let max = agent.settings.limits.input_bytes;
        if (queued.input.len() + bytes.len()) as u64 > max {
            let message = format!("more than {max} bytes of input were sent without credit");
            return Err(WireError::new(ErrorType::ProtocolError, message));
        }

        queued.input.extend_from_slice(&bytes);
        queued.has_ended_input |= stdin.eof;
        return Ok(());
    }

    let operation = agent.operations.find(id, stdin.op_id);
    match operation.and_then(|operation| operation.input.as_mut()) {
        Some(input) => input.accept(bytes, stdin.eof),
        None => Ok(()),
    }
}

/// Handles a raw frame of zero bytes. It is complete already and carries at most the end of input.
fn take_empty_frame(
    client: &mut Client,
    data: InputData,
    agent: &mut Agent,
) -> Result<(), WireError> {
    let (op_id, eof) = (data.op_id, data.eof);
    let stdin = Stdin {
        action: ActionTag,
        op_id,
        chunk: None,
        eof,
    };

    take_input(client, stdin, agent)
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

fn add_credit(client: &mut Client, id: OpId, bytes: u64, agent: &mut Agent) {
    let client_id = client.connection.id;
    if let Some(operation) = agent.operations.find(client_id, id) {
        operation.add_credit(bytes);
    }

    if let Some(queued) = agent.queue.find(client_id, id) {
        let credit = &mut queued.params.credit;
        *credit = credit.map(|credit| credit.saturating_add(bytes));
    }

    let replays = client.replays.iter_mut();
    for replay in replays.filter(|replay| replay.op_id() == Some(id)) {
        replay.add_credit(bytes);
    }

    let transfers = client.transfers.iter_mut();
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
    if agent.pool.is_busy(&request.context) {
        let message = format!(
            "an exec is running in the context `{}`; cancel it first, or wait until it ends",
            request.context.as_str()
        );
        return Err(WireError::new(ErrorType::BusyError, message));
    }

    if let Some(interpreter) = agent.pool.close(&request.context) {
        interpreter.process.kill();
        agent.abandoned.push(interpreter.process);
    }

    let op_id = request.op_id;
    connection.outbox.answer(&Response::Done(Done { op_id }));

    Ok(())
}

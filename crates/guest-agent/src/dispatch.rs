use std::time::{Duration, Instant};

use fumehood_protocol::{
    Chunk, ErrorType, Exec, InputData, InstallPackages, OpId, Ping, Pong, Request, Response, Stdin,
    Tag, WireError,
};

use crate::begin::begin;
use crate::command::Interpreters;
use crate::confine::Confinement;
use crate::connection::{Connection, Incoming};
use crate::freshness::{Identity, admits, quiesce, refresh};
use crate::hello::hello;
use crate::kept::Kept;
use crate::memory::MemoryWatch;
use crate::operation::{Operation, Reason, Terms};
use crate::process::Process;
use crate::settings::{Settings, VERSION};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) confinement: Confinement,
    pub(crate) interpreters: Interpreters,
    /// Interpreters that outlive an exec.
    pub(crate) kept: Kept,
    /// In our own VMs: what makes the guest one of its own.
    pub(crate) identity: Option<Identity>,
    /// Where programs' memory has a limit.
    pub(crate) memory: Option<MemoryWatch>,
    /// Killed processes whose connection is gone, until they are reaped.
    pub(crate) abandoned: Vec<Process>,
}

/// Answers one request, or begins what will.
pub(crate) fn dispatch(
    connection: &mut Connection,
    incoming: Incoming,
    agent: &mut Agent,
    now: Instant,
) {
    let Incoming { op_id, request } = incoming;
    let result = request
        .and_then(|request| admitted(connection, request))
        .and_then(|request| admits(agent, &request).map(|()| request))
        .and_then(|request| match request {
            Request::Ping(request) => ping(connection, &request),
            Request::Hello(request) => hello(connection, &request, agent),
            Request::Exec(request) => exec(connection, request, agent, now),
            Request::Cancel(request) => cancel(connection, request.op_id, agent, now),
            Request::Credit(request) => credit(connection, request.op_id, request.bytes),
            Request::InstallPackages(request) => install_packages(&request, agent),
            Request::Quiesce(request) => quiesce(connection, &request, agent),
            Request::Refresh(request) => refresh(connection, &request, agent),
            Request::Stdin(request) => input(connection, request),
            Request::Data(request) => data(connection, request, agent),
            _ => Err(WireError::new(ErrorType::RequestError, "not there yet")),
        });
    if let Err(error) = result {
        connection.refuse(op_id, error);
    }
    connection.abandon(agent);
}

/// The request, if this client may make it now.
fn admitted(connection: &Connection, request: Request) -> Result<Request, WireError> {
    if matches!(request, Request::Hello(_)) {
        return Ok(request);
    }
    if !connection.session.authorised {
        let message = "say `hello` with the right token first";
        return Err(WireError::new(ErrorType::AuthError, message));
    }
    let names_another = matches!(
        request,
        Request::Cancel(_)
            | Request::Credit(_)
            | Request::Stdin(_)
            | Request::Data(_)
            | Request::Signal(_)
            | Request::Resize(_)
            | Request::Detach(_)
    );
    match request
        .op_id()
        .filter(|id| !names_another && connection.is_live(*id))
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

fn ping(connection: &mut Connection, ping: &Ping) -> Result<(), WireError> {
    let pong = Pong {
        op_id: ping.op_id,
        version: VERSION.to_string(),
    };
    connection.outbox.answer(&Response::Pong(pong));
    Ok(())
}

fn exec(
    connection: &mut Connection,
    exec: Exec,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    let limits = &agent.settings.limits;
    exec.check(limits)?;
    let live = connection.operations.len() as u64;
    if live >= limits.operations {
        let message = format!(
            "{live} operations are running on this connection; at most {} may; try again when one has ended",
            limits.operations
        );
        return Err(WireError::new(ErrorType::BusyError, message));
    }
    let terms = Terms {
        op_id: exec.op_id,
        encoding: connection.session.encoding,
        credit: exec.credit,
        timeout: Some(Duration::from_secs(exec.timeout_s(limits)?)),
        arrived: now,
    };
    let begun = begin(exec, agent)?;
    let operation = Operation::new(&terms, begun, &agent.settings.limits);
    connection.operations.push(operation);
    Ok(())
}

fn cancel(
    connection: &mut Connection,
    id: OpId,
    agent: &Agent,
    now: Instant,
) -> Result<(), WireError> {
    if let Some(operation) = connection.operation(id) {
        operation.stop(Reason::Cancel, &agent.settings.limits, now);
    }
    Ok(())
}

/// Input for an operation; for one that has none, or has ended, it is dropped.
fn input(connection: &mut Connection, stdin: Stdin) -> Result<(), WireError> {
    let bytes = stdin.chunk.map(Chunk::into_bytes).unwrap_or_default();
    let operation = connection.operation(stdin.op_id);
    match operation.and_then(|operation| operation.input.as_mut()) {
        Some(input) => input.take(bytes, stdin.eof),
        None => Ok(()),
    }
}

/// Input as a raw frame; one without bytes has come already.
fn data(connection: &mut Connection, data: InputData, agent: &Agent) -> Result<(), WireError> {
    if data.len > 0 {
        return connection.announce(data, &agent.settings.limits);
    }
    let (op_id, eof) = (data.op_id, data.eof);
    let nothing = Stdin {
        action: Tag,
        op_id,
        chunk: None,
        eof,
    };
    input(connection, nothing)
}

fn credit(connection: &mut Connection, id: OpId, bytes: u64) -> Result<(), WireError> {
    if let Some(operation) = connection.operation(id) {
        operation.add_credit(bytes);
    }
    Ok(())
}

fn install_packages(request: &InstallPackages, agent: &Agent) -> Result<(), WireError> {
    let (specs, _) = request.check(&agent.settings.limits)?;
    let names: Vec<&str> = specs.iter().map(|spec| spec.name()).collect();
    let message = format!(
        "cannot install {}: this guest has no network and no package index yet; use what its image holds",
        names.join(", ")
    );
    Err(WireError::new(ErrorType::PackageError, message))
}

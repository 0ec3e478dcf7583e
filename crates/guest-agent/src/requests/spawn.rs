use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{ProcessKind, PtySize, Request, Response, Spawn, Started, User, WireError};
use fumehood_sys::guest::{Launch, launch};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcsetwinsize;

use super::admission::{check_input_op_id, check_operation_limit};
use super::attach::{attach_to, look_up_key};
use super::client::Client;
use crate::agent::Agent;
use crate::interpreter::ProcessIo;
use crate::operation::{Follower, Input, Operation, OperationParams, winsize};
use crate::process::{Process, agent_error, input_pipe, output_pipe};

/// Starts a program.
///
/// # Errors
/// What [`Spawn::check`] returns; `path_error` for the program and the working directory; `busy_error`;
/// `request_error` for the key; `agent_error` if the process cannot be started.
pub(super) fn spawn(
    client: &mut Client,
    spawn: Spawn,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    let encoding = client.connection.session.encoding;
    spawn.check(&agent.settings.limits)?;
    check_input_op_id(spawn.stdin, spawn.op_id)?;

    // A key that is known attaches to its operation instead of starting the program again.
    let mut keyed = None;

    if let Some(key) = &spawn.idempotency_key {
        let without_client = Spawn {
            op_id: None,
            credit: None,
            ..spawn.clone()
        };

        let lookup = look_up_key(key, &Request::Spawn(without_client), agent)?;
        if lookup.is_known {
            let follower = Follower {
                op_id: spawn.op_id,
                encoding,
                credit: spawn.credit,
                from_seq: 0,
            };

            return attach_to(client, key, follower, agent);
        }

        keyed = Some(lookup.keyed);
    }

    check_operation_limit(client, agent)?;
    let timeout = spawn.timeout_s(&agent.settings.limits)?;
    let params = OperationParams {
        client: Some(client.connection.id),
        keyed,
        tag: spawn.tag.clone(),
        kind: ProcessKind::Spawn,
        op_id: spawn.op_id,
        encoding,
        credit: spawn.credit,
        timeout: timeout.map(Duration::from_secs),
        arrived: now,
    };

    let operation = start_program(&spawn, params, agent)?;

    let (op_id, pid) = (spawn.op_id, operation.process.pid());
    let started = Response::Started(Started { op_id, pid });
    client.connection.outbox.answer(&started);
    agent.operations.add(operation);

    Ok(())
}

/// The descriptors of a program: the child's ends and the agent's.
struct ProgramPipes {
    /// Standard input, output and error of the child.
    standard: [OwnedFd; 3],
    /// The agent's ends of standard output and error.
    outputs: [Option<OwnedFd>; 2],
    /// The pipe for displayed values, the agent's end first. Only an installation has one.
    results: Option<(OwnedFd, OwnedFd)>,
    /// The agent's end of the program's terminal.
    terminal: Option<OwnedFd>,
    /// The agent's end of standard input.
    input: Option<OwnedFd>,
}

/// Starts a program in its own cgroup.
///
/// # Errors
/// `path_error` for the program and the working directory; `agent_error` if the process cannot be started.
pub(super) fn start_program(
    spawn: &Spawn,
    params: OperationParams,
    agent: &mut Agent,
) -> Result<Operation, WireError> {
    let is_root = spawn.user == Some(User::Root);
    let program = agent
        .interpreters
        .resolve_program(&spawn.argv[0], is_root)?;
    let working_dir = spawn.cwd.as_ref();
    let working_dir = working_dir
        .map(|path| agent.confinement.open_working_dir(path))
        .transpose()?;

    let identity = match spawn.user.unwrap_or_default() {
        User::User => agent.confinement.credentials,
        User::Root => None,
    };

    let pipes = match spawn.pty {
        Some(size) => open_terminal(size, agent),
        None => open_pipes(spawn.stdin, identity, agent),
    };

    let pipe_error = agent_error("make a program's pipes");
    let mut pipes = pipes.map_err(&pipe_error)?;
    if params.kind == ProcessKind::Install {
        pipes.results = Some(output_pipe(identity).map_err(&pipe_error)?);
    }

    // The child reports on this pipe why it could not execute the program.
    let (control_pipe, report) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| pipe_error(e.into()))?;
    fcntl_setfl(&control_pipe, OFlags::NONBLOCK).map_err(|e| pipe_error(e.into()))?;

    let cgroups = agent.confinement.cgroups.as_mut();
    let cgroup = cgroups.map(|cgroups| cgroups.create()).transpose();
    let cgroup = cgroup.map_err(agent_error("make a cgroup"))?;

    let confinement = &agent.confinement;

    let environment = if is_root {
        confinement.root_environment(&spawn.env_vars)
    } else {
        confinement.environment(&spawn.env_vars)
    };

    let argument = |text: &String| CString::new(text.as_str()).unwrap_or_default();
    let results_of_child = pipes.results.as_ref().map(|(_, of_child)| of_child.as_fd());
    let pid = launch(&Launch {
        program: &program,
        arguments: &spawn.argv.iter().map(argument).collect::<Vec<_>>(),
        environment: &environment,
        directory: working_dir
            .as_ref()
            .unwrap_or(&confinement.working_dir)
            .as_fd(),
        standard: pipes.standard.each_ref().map(AsFd::as_fd),
        extra: results_of_child.as_slice(),
        report: report.as_fd(),
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
        identity,
        open_files: confinement.open_files,
        terminal: spawn.pty.is_some(),
        fallback: None,
    });

    // The cgroup must be removed even if there is no process in it.
    let mut process = Process::new(*pid.as_ref().unwrap_or(&0), cgroup, None);
    if let Err(error) = pid {
        process.clean_up(agent.confinement.cgroups.as_mut());
        return Err(agent_error("start a process")(error));
    }

    let limits = &agent.settings.limits;
    let is_terminal = pipes.terminal.is_some();
    let input = pipes
        .input
        .map(|pipe| Input::new(pipe, is_terminal, limits));

    let [stdout, stderr] = pipes.outputs;
    let io = ProcessIo {
        process,
        outputs: [stdout, stderr, pipes.results.map(|(ours, _)| ours)],
        control_pipe: Some(control_pipe),
    };

    Ok(Operation::for_spawn(
        params,
        io,
        input,
        pipes.terminal,
        limits,
    ))
}

fn open_pipes(
    stdin: bool,
    identity: Option<(u32, u32)>,
    agent: &Agent,
) -> std::io::Result<ProgramPipes> {
    let (stdout, stdout_of_child) = output_pipe(identity)?;
    let (stderr, stderr_of_child) = output_pipe(identity)?;

    let (input_of_child, input) = if stdin {
        let (reader, writer) = input_pipe(identity)?;
        (reader, Some(writer))
    } else {
        (agent.confinement.dev_null.try_clone()?, None)
    };

    if let Some(input) = &input {
        fcntl_setfl(input, OFlags::NONBLOCK)?;
    }

    Ok(ProgramPipes {
        standard: [input_of_child, stdout_of_child, stderr_of_child],
        outputs: [Some(stdout), Some(stderr)],
        results: None,
        terminal: None,
        input,
    })
}

fn open_terminal(size: PtySize, agent: &Agent) -> std::io::Result<ProgramPipes> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;

    // The program's side belongs to its user.
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty())?;

    if let Some((user, group)) = agent.confinement.credentials {
        std::os::unix::fs::fchown(&slave, Some(user), Some(group))?;
    }

    tcsetwinsize(&slave, winsize(size.rows, size.cols))?;

    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();

    Ok(ProgramPipes {
        standard: [copy(slave.as_fd())?, copy(slave.as_fd())?, slave],
        outputs: [None, None],
        results: None,
        input: Some(copy(master.as_fd())?),
        terminal: Some(master),
    })
}

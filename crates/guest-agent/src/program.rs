use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{
    ErrorType, GuestPath, ProcessKind, PtySize, Request, Response, Spawn, Started, User, WireError,
};
use fumehood_sys::guest::{Launch, launch};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::agent::Agent;
use crate::attach::{admit_key, attach_to};
use crate::connection::Connection;
use crate::dispatch::{can_be_fed, room};
use crate::following::Follower;
use crate::input::Input;
use crate::operation::{Operation, Terms};
use crate::process::Process;
use crate::spawn::{failed, output_pipe};
use crate::talk::Parts;

/// Starts a program.
///
/// # Errors
/// `agent_error`: what this machine cannot do, or lacks; what [`Spawn::check`] says; `path_error` for the
/// program and the working directory.
pub(crate) fn spawn(
    connection: &mut Connection,
    spawn: Spawn,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    spawn.check(&agent.settings.limits)?;
    can_be_fed(spawn.stdin, spawn.op_id)?;
    let follower = Follower {
        op_id: spawn.op_id,
        encoding: connection.session.encoding,
        credit: spawn.credit,
        from_seq: 0,
    };
    let key = spawn.idempotency_key.clone();
    let print = || Request::Spawn(without_client(&spawn));
    let keyed = match key
        .map(|key| admit_key(&key, &print(), agent))
        .transpose()?
    {
        Some(known) if known.is_known => {
            return attach_to(connection, &known.keyed.key, follower, agent);
        }
        keyed => keyed.map(|known| known.keyed),
    };
    room(connection, agent)?;
    let timeout = spawn.timeout_s(&agent.settings.limits)?;
    let terms = Terms {
        client: Some(connection.id),
        keyed,
        tag: spawn.tag.clone(),
        kind: ProcessKind::Spawn,
        op_id: spawn.op_id,
        encoding: connection.session.encoding,
        credit: spawn.credit,
        timeout: timeout.map(Duration::from_secs),
        arrived: now,
    };
    let operation = start(&spawn, terms, agent)?;
    let (op_id, pid) = (spawn.op_id, operation.process.pid());
    connection
        .outbox
        .answer(&Response::Started(Started { op_id, pid }));
    agent.operations.add(operation);
    Ok(())
}

/// What makes two requests the same.
fn without_client(spawn: &Spawn) -> Spawn {
    Spawn {
        op_id: None,
        credit: None,
        ..spawn.clone()
    }
}

/// The descriptors of a program: its own, and ours.
struct Wires {
    standard: [OwnedFd; 3],
    outputs: [Option<OwnedFd>; 2],
    /// Where values are shown, its end and ours; only an installation has some.
    results: Option<(OwnedFd, OwnedFd)>,
    /// The other end of its terminal.
    terminal: Option<OwnedFd>,
    input: Option<OwnedFd>,
}

/// Starts it in a cgroup of its own.
///
/// # Errors
/// As [`spawn`].
pub(crate) fn start(
    spawn: &Spawn,
    terms: Terms,
    agent: &mut Agent,
) -> Result<Operation, WireError> {
    let program = agent.interpreters.program(&spawn.argv[0])?;
    let directory = match &spawn.cwd {
        None => None,
        Some(path) => Some(enter(path, agent)?),
    };
    let wires = match spawn.pty {
        Some(size) => terminal(size, agent),
        None => pipes(spawn.stdin, agent),
    };
    let mut wires = wires.map_err(failed("make a program's pipes"))?;
    if terms.kind == ProcessKind::Install {
        let results = output_pipe();
        let (ours, of_child) = results.map_err(|e| failed("make a program's pipes")(e))?;
        wires.results = Some((of_child, ours));
    }
    let words = pipe_with(PipeFlags::CLOEXEC);
    let (words, report) = words.map_err(|e| failed("make a program's pipes")(e))?;
    fcntl_setfl(&words, OFlags::NONBLOCK).map_err(|e| failed("make a program's pipes")(e))?;
    let cgroups = agent.confinement.cgroups.as_mut();
    let cgroup = cgroups.map(|cgroups| cgroups.create()).transpose();
    let cgroup = cgroup.map_err(failed("make a cgroup"))?;
    let confinement = &agent.confinement;
    let identity = match spawn.user.unwrap_or_default() {
        User::User => confinement.identity,
        User::Root => None,
    };
    let word = |word: &String| CString::new(word.as_str()).unwrap_or_default();
    let pid = launch(&Launch {
        program: &program,
        arguments: &spawn.argv.iter().map(word).collect::<Vec<_>>(),
        environment: &confinement.environment(&spawn.env_vars),
        directory: directory.as_ref().unwrap_or(&confinement.directory).as_fd(),
        standard: wires.standard.each_ref().map(AsFd::as_fd),
        extra: wires
            .results
            .as_ref()
            .map(|(of_child, _)| of_child.as_fd())
            .as_slice(),
        report: report.as_fd(),
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
        identity,
        open_files: confinement.open_files,
        terminal: spawn.pty.is_some(),
    });
    let mut process = Process::new(*pid.as_ref().unwrap_or(&0), cgroup, None);
    if let Err(error) = pid {
        process.clean(agent.confinement.cgroups.as_mut());
        return Err(failed("start a process")(error));
    }
    let limits = &agent.settings.limits;
    let is_terminal = wires.terminal.is_some();
    let input = wires
        .input
        .map(|pipe| Input::new(pipe, is_terminal, limits));
    let [stdout, stderr] = wires.outputs;
    let parts = Parts {
        process,
        outputs: [stdout, stderr, wires.results.map(|(_, ours)| ours)],
        words: Some(words),
    };
    Ok(Operation::spawned(
        terms,
        parts,
        input,
        wires.terminal,
        limits,
    ))
}

/// Opens a working directory with the rights of the user that programs run as.
pub(crate) fn enter(path: &GuestPath, agent: &Agent) -> Result<OwnedFd, WireError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = agent.confinement.as_user(|| {
        let directory = rustix::fs::openat(
            &agent.confinement.directory,
            path.as_str(),
            flags,
            Mode::empty(),
        )?;
        // Its own `.` is found only by who may enter it.
        rustix::fs::openat(&directory, ".", flags, Mode::empty())
    });
    opened.map_err(|error: rustix::io::Errno| {
        let message = format!(
            "cannot enter the working directory {}: {error}",
            path.as_str()
        );
        WireError::new(ErrorType::PathError, message).with_errno(error.raw_os_error())
    })
}

fn pipes(stdin: bool, agent: &Agent) -> std::io::Result<Wires> {
    let (stdout, stdout_of_child) = output_pipe()?;
    let (stderr, stderr_of_child) = output_pipe()?;
    let (input_of_child, input) = if stdin {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        (reader, Some(writer))
    } else {
        (agent.confinement.null.try_clone()?, None)
    };
    if let Some(input) = &input {
        fcntl_setfl(input, OFlags::NONBLOCK)?;
    }
    Ok(Wires {
        standard: [input_of_child, stdout_of_child, stderr_of_child],
        outputs: [Some(stdout), Some(stderr)],
        results: None,
        terminal: None,
        input,
    })
}

fn terminal(size: PtySize, agent: &Agent) -> std::io::Result<Wires> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty())?;
    if let Some((user, group)) = agent.confinement.identity {
        std::os::unix::fs::fchown(&slave, Some(user), Some(group))?;
    }
    tcsetwinsize(&slave, winsize(size.rows, size.cols))?;
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
    Ok(Wires {
        standard: [copy(slave.as_fd())?, copy(slave.as_fd())?, slave],
        outputs: [None, None],
        results: None,
        input: Some(copy(master.as_fd())?),
        terminal: Some(master),
    })
}

/// A size in characters.
pub(crate) fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

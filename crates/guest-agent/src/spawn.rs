use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

use fumehood_protocol::{ErrorType, Exec, WireError};
use fumehood_sys::guest::{Launch, launch};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use crate::cgroup::Cgroup;
use crate::command::{Command, Feed, Interpreters};
use crate::confine::Confinement;
use crate::process::{Process, Script};

/// A program that was started, and our ends of what it holds.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: Process,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Closed by the other side when the interpreter is ready; a failure before that comes here.
    pub(crate) channel: OwnedFd,
    /// Code to send through the channel.
    pub(crate) code: Option<Vec<u8>>,
}

/// Names tried for a script's file before giving up.
const NAMES: u32 = 1000;

/// Starts the interpreter for `exec`, which must have passed its checks.
///
/// # Errors
/// `agent_error`: what this machine cannot do, or lacks.
pub(crate) fn spawn(
    exec: Exec,
    confinement: &mut Confinement,
    interpreters: &mut Interpreters,
) -> Result<Spawned, WireError> {
    let mut command = interpreters.command(exec.language)?;
    let environment = confinement.environment(&exec.env_vars);
    let code = exec.code.into_bytes();
    let (memory, script, code) = match command.feed {
        Feed::Channel => (None, None, Some(code)),
        Feed::Memory => (
            Some(in_memory(&code).map_err(failed("keep the code in memory"))?),
            None,
            None,
        ),
        Feed::File => (None, Some(in_file(&code, confinement, &mut command)?), None),
    };
    let cgroup = confinement
        .cgroups
        .as_mut()
        .map(|cgroups| cgroups.create())
        .transpose();
    let cgroup = cgroup.map_err(failed("make a cgroup"))?;
    let started = start(
        &command,
        &environment,
        memory.as_ref(),
        cgroup.as_ref(),
        confinement,
    );
    let pid = started.as_ref().map_or(0, |started| started.pid);
    let mut process = Process::new(pid, cgroup, script);
    match started {
        Ok(Started {
            stdout,
            stderr,
            channel,
            ..
        }) => Ok(Spawned {
            process,
            stdout,
            stderr,
            channel,
            code,
        }),
        Err(error) => {
            process.clean(confinement.cgroups.as_mut());
            Err(failed("start a process")(error))
        }
    }
}

struct Started {
    pid: i32,
    stdout: OwnedFd,
    stderr: OwnedFd,
    channel: OwnedFd,
}

fn start(
    command: &Command,
    environment: &[CString],
    memory: Option<&OwnedFd>,
    cgroup: Option<&Cgroup>,
    confinement: &Confinement,
) -> std::io::Result<Started> {
    let (stdout, stdout_of_child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_of_child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    for ours in [&stdout, &stderr] {
        rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
    }
    let (channel, channel_of_child) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let third = match command.feed {
        Feed::Channel => Some(&channel_of_child),
        Feed::Memory => memory,
        Feed::File => None,
    };
    let pid = launch(&Launch {
        program: &command.program,
        arguments: &command.arguments,
        environment,
        directory: confinement.directory.as_fd(),
        standard: [
            confinement.null.as_fd(),
            stdout_of_child.as_fd(),
            stderr_of_child.as_fd(),
        ],
        third: third.map(AsFd::as_fd),
        report: channel_of_child.as_fd(),
        cgroup: cgroup.map(AsFd::as_fd),
        identity: confinement.identity,
        open_files: confinement.open_files,
    })?;
    Ok(Started {
        pid,
        stdout,
        stderr,
        channel,
    })
}

/// What could not be done, as an answer.
fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> WireError {
    move |error| {
        let message = format!(
            "the agent could not {what}: {error}; free memory, processes or disk space in the guest, or use a new one"
        );
        WireError::new(ErrorType::AgentError, message)
    }
}

fn in_memory(code: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("main.sh", MemfdFlags::CLOEXEC)?);
    file.write_all(code)?;
    file.rewind()?;
    Ok(file.into())
}

/// Writes the code to `main.ts`, or to the first free name like it. The directory may belong to
/// the user the code runs as: the file is made, never opened, and no link is followed.
fn in_file(
    code: &[u8],
    confinement: &Confinement,
    command: &mut Command,
) -> Result<Script, WireError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let make = |name: &String| {
        rustix::fs::openat(
            &confinement.directory,
            name,
            flags,
            Mode::from_raw_mode(0o600),
        )
    };
    let mut name = "main.ts".to_string();
    let mut file = make(&name);
    for number in 2..NAMES {
        if file.as_ref().err() != Some(&Errno::EXIST) {
            break;
        }
        name = format!("main.{number}.ts");
        file = make(&name);
    }
    let fail = failed("write main.ts to the working directory");
    let file = File::from(file.map_err(|e| fail(e.into()))?);
    let directory = confinement.directory.try_clone().map_err(&fail)?;
    let script = Script { directory, name };
    if let Err(error) = fill(file, code, confinement) {
        Process::new(0, None, Some(script)).clean(None);
        return Err(fail(error));
    }
    command
        .arguments
        .push(CString::new(["./", &script.name].concat()).unwrap_or_default());
    Ok(script)
}

fn fill(mut file: File, code: &[u8], confinement: &Confinement) -> std::io::Result<()> {
    file.write_all(code)?;
    if let Some((user, group)) = confinement.identity {
        std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
    }
    Ok(())
}

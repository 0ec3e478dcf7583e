use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fumehood_protocol::{EnvVars, ErrorType, Language, WireError};
use fumehood_sys::guest::{Launch, launch};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::cgroup::{Cgroup, Usage};
use crate::command::{Command, Feed, Interpreters};
use crate::confine::Confinement;
use crate::interpreter::Interpreter;
use crate::process::{Process, Script};

/// Names tried for a script's file before giving up.
const NAMES: u32 = 1000;

/// Starts an interpreter with these variables in its environment. It waits for code.
///
/// # Errors
/// `agent_error`: what this machine cannot do, or lacks.
pub(crate) fn start(
    language: Language,
    variables: &EnvVars,
    confinement: &mut Confinement,
    interpreters: &mut Interpreters,
) -> Result<Interpreter, WireError> {
    let mut command = interpreters.command(language)?;
    let environment = confinement.environment(variables);
    let (file, script) = match command.feed {
        Feed::Message => (None, None),
        Feed::Memory => (
            Some(in_memory().map_err(failed("make a file in memory"))?),
            None,
        ),
        Feed::File => {
            let (file, script) = in_directory(confinement, &mut command)?;
            (Some(file), Some(script))
        }
    };
    let cgroup = confinement
        .cgroups
        .as_mut()
        .map(|cgroups| cgroups.create())
        .transpose();
    let cgroup = cgroup.map_err(failed("make a cgroup"))?;
    let memory = file.as_ref().filter(|_| command.feed == Feed::Memory);
    let started = launched(&command, &environment, memory, cgroup.as_ref(), confinement);
    let pid = started.as_ref().map_or(0, |started| started.pid);
    let mut process = Process::new(pid, cgroup, script);
    match started {
        Ok(started) => Ok(Interpreter {
            language,
            process,
            outputs: [Some(started.stdout), Some(started.stderr), started.results],
            input: started.input,
            messages: started.messages,
            words: started.words,
            script: file,
            used: Usage::default(),
            reseed: false,
            lacks_environment: false,
            tainted: false,
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
    results: Option<OwnedFd>,
    input: OwnedFd,
    messages: OwnedFd,
    words: OwnedFd,
}

fn launched(
    command: &Command,
    environment: &[CString],
    memory: Option<&File>,
    cgroup: Option<&Cgroup>,
    confinement: &Confinement,
) -> std::io::Result<Started> {
    let (stdout, stdout_of_child) = output_pipe()?;
    let (stderr, stderr_of_child) = output_pipe()?;
    // Pipes, like the output: what moves bytes through one is translated once for all of them.
    let (messages_of_child, messages) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (words, words_of_child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Bash has no values to show, and its script in that place.
    let results = match memory {
        None => Some(output_pipe()?),
        Some(_) => None,
    };
    for ours in [&messages, &words] {
        rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
    }
    // Without a writer its standard input is at its end. Here the child's end needs another file
    // description than ours, whose reads must not block.
    let (input_of_child, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let input = crate::input::reader(&input_of_child)?;
    drop(writer);
    let line = [messages_of_child.as_fd(), words_of_child.as_fd()];
    let results_of_child = results.iter().map(|(_, child)| child.as_fd());
    let line = memory
        .map(AsFd::as_fd)
        .into_iter()
        .chain(line)
        .chain(results_of_child);
    let extra: Vec<BorrowedFd<'_>> = line.collect();
    let pid = launch(&Launch {
        program: &command.program,
        arguments: &command.arguments,
        environment,
        directory: confinement.directory.as_fd(),
        standard: [
            input_of_child.as_fd(),
            stdout_of_child.as_fd(),
            stderr_of_child.as_fd(),
        ],
        extra: &extra,
        report: words_of_child.as_fd(),
        cgroup: cgroup.map(AsFd::as_fd),
        identity: confinement.identity,
        open_files: confinement.open_files,
        terminal: false,
    })?;
    Ok(Started {
        pid,
        stdout,
        stderr,
        results: results.map(|(ours, _)| ours),
        input,
        messages,
        words,
    })
}

/// Bytes that a program can write before it has to wait for the agent.
const PIPE_BYTES: usize = 256 * 1024;

/// Pipes for output, ours first.
///
/// # Errors
/// What the kernel says.
pub(crate) fn output_pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, of_child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    // One that stays small is only slower.
    let _ = rustix::pipe::fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((ours, of_child))
}

/// What could not be done, as an answer.
pub(crate) fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> WireError {
    move |error| {
        let message = format!(
            "the agent could not {what}: {error}; free memory, processes or disk space in the guest, or use a new one"
        );
        WireError::new(ErrorType::AgentError, message)
    }
}

fn in_memory() -> std::io::Result<File> {
    Ok(rustix::fs::memfd_create("main.sh", MemfdFlags::CLOEXEC)?.into())
}

/// Makes an empty `main.ts`, or the first free name like it. The directory may belong to the user the
/// code runs as: the file is made, never opened, and no link is followed.
fn in_directory(
    confinement: &Confinement,
    command: &mut Command,
) -> Result<(File, Script), WireError> {
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
    if let Some((user, group)) = confinement.identity
        && let Err(error) = std::os::unix::fs::fchown(&file, Some(user), Some(group))
    {
        Process::new(0, None, Some(script)).clean(None);
        return Err(fail(error));
    }
    command
        .arguments
        .push(CString::new(["./", &script.name].concat()).unwrap_or_default());
    Ok((file, script))
}

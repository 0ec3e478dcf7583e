use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fumehood_protocol::{EnvVars, Language, WireError};
use fumehood_sys::guest::{Launch, launch};
use rustix::fs::{MemfdFlags, Mode, OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use super::command::{CodeDelivery, InterpreterCatalog, InterpreterCommand};
use super::interpreter::{ExecMode, Interpreter};
use super::main_file::create_python_main;
use super::numbered_file::NumberedFile;
use super::script::working_dir;
use super::script_file::ScriptFile;
use crate::process::{
    Cgroup, CodeFile, Confinement, Process, Usage, agent_error, input_pipe, open_reader,
    output_pipe,
};

/// Starts an interpreter for this mode with these variables in its environment. It waits for code.
///
/// # Errors
/// `agent_error` if this machine lacks the interpreter or cannot start it.
pub(crate) fn start_interpreter(
    language: Language,
    mode: ExecMode,
    variables: &EnvVars,
    confinement: &mut Confinement,
    interpreters: &mut InterpreterCatalog,
) -> Result<Interpreter, WireError> {
    let mut command = interpreters.command(language, mode)?;
    let mut environment = if language == Language::Python {
        // The directory must also precede a `PYTHONPATH` of the last refresh.
        let variables = variables.clone().over(&confinement.added_environment);
        confinement.environment(&interpreters.with_python_path(&variables))
    } else {
        confinement.environment(variables)
    };
    environment.extend(command.variable.take());

    let (file, main_file) = create_code_file(language, &mut command, confinement)?;

    // The script that bash is going to run.
    let script = match language {
        Language::Shell if mode != ExecMode::Context => {
            let script = ScriptFile::create(confinement);
            let script = script.map_err(agent_error("make main.sh in the working directory"))?;
            let name = CString::new(script.name());
            command.arguments.push(name.unwrap_or_default());
            Some(script)
        }
        _ => None,
    };

    let directory = match &command.directory {
        None => None,
        Some(path) => {
            let fail = agent_error("find the directory of the runner");
            let home = CString::new(working_dir(confinement).map_err(&fail)?);
            command.arguments.push(home.unwrap_or_default());
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty());
            Some(opened.map_err(|error| fail(error.into()))?)
        }
    };

    let cgroups = confinement.cgroups.as_mut();
    let cgroup = cgroups.map(|cgroups| cgroups.create()).transpose();
    let cgroup = cgroup.map_err(agent_error("make a cgroup"))?;
    let memory_file = file
        .as_ref()
        .filter(|_| command.delivery == CodeDelivery::MemoryFile);

    let launched = launch_process(
        &command,
        &environment,
        memory_file,
        directory.as_ref(),
        cgroup.as_ref(),
        confinement,
    );

    // The cgroup and the file must be removed even if there is no process.
    let pid = launched.as_ref().map_or(0, |launched| launched.pid);
    let mut process = Process::new(pid, cgroup, main_file);

    match launched {
        Ok(launched) => Ok(Interpreter {
            language,
            process,
            outputs: [
                Some(launched.stdout),
                Some(launched.stderr),
                launched.results,
            ],
            stdin_reader: launched.stdin_reader,
            message_pipe: Some(launched.message_pipe),
            control_pipe: launched.control_pipe,
            code_file: file,
            script,
            usage: Usage::default(),
            reseed: false,
            needs_environment: false,
            has_drawn: false,
            has_run_user_code: false,
        }),
        Err(error) => {
            process.clean_up(confinement.cgroups.as_mut());
            Err(agent_error("start a process")(error))
        }
    }
}

/// Creates the file that gets the code of an interpreter, and adds its path to the command. Returns also the file that is
/// removed at the end.
fn create_code_file(
    language: Language,
    command: &mut InterpreterCommand,
    confinement: &Confinement,
) -> Result<(Option<File>, Option<CodeFile>), WireError> {
    Ok(match command.delivery {
        CodeDelivery::MemoryFile => {
            let file = create_memory_file().map_err(agent_error("make a file in memory"))?;
            (Some(file), None)
        }
        CodeDelivery::MainFile if language == Language::Python => {
            let created = create_python_main(confinement);
            let (file, main_file, path) =
                created.map_err(agent_error("write main.py to the working directory"))?;
            command.arguments.push(path);
            (Some(file), Some(main_file))
        }
        CodeDelivery::MainFile => {
            let (file, main_file) = create_main_file(confinement, command)?;
            (Some(file), Some(main_file))
        }
    })
}

struct LaunchedInterpreter {
    pid: i32,
    stdout: OwnedFd,
    stderr: OwnedFd,
    results: Option<OwnedFd>,
    stdin_reader: OwnedFd,
    message_pipe: OwnedFd,
    control_pipe: OwnedFd,
}

fn launch_process(
    command: &InterpreterCommand,
    environment: &[CString],
    memory_file: Option<&File>,
    directory: Option<&OwnedFd>,
    cgroup: Option<&Cgroup>,
    confinement: &Confinement,
) -> std::io::Result<LaunchedInterpreter> {
    // Messages use pipes like the output does, so that the code that moves bytes through a pipe is translated once.
    let (stdout, stdout_of_child) = output_pipe(confinement.credentials)?;
    let (stderr, stderr_of_child) = output_pipe(confinement.credentials)?;
    let (messages_of_child, message_pipe) = pipe_with(PipeFlags::CLOEXEC)?;
    let (control_pipe, control_of_child) = pipe_with(PipeFlags::CLOEXEC)?;

    for ours in [&message_pipe, &control_pipe] {
        fcntl_setfl(ours, OFlags::NONBLOCK)?;
    }

    // Bash has no results; its script takes that descriptor.
    let results = match memory_file {
        None => Some(output_pipe(confinement.credentials)?),
        Some(_) => None,
    };

    // Without a writer, standard input is at its end. The child's end needs its own file description, because reads
    // from the agent's must not block.
    let (stdin_of_child, writer) = input_pipe(confinement.credentials)?;
    let stdin_reader = open_reader(&stdin_of_child)?;
    drop(writer);

    let line = [messages_of_child.as_fd(), control_of_child.as_fd()];
    let results_of_child = results.iter().map(|(_, of_child)| of_child.as_fd());
    let extra: Vec<BorrowedFd<'_>> = memory_file
        .map(AsFd::as_fd)
        .into_iter()
        .chain(line)
        .chain(results_of_child)
        .collect();

    let pid = launch(&Launch {
        program: &command.path,
        arguments: &command.arguments,
        environment,
        directory: directory.unwrap_or(&confinement.working_dir).as_fd(),
        standard: [
            stdin_of_child.as_fd(),
            stdout_of_child.as_fd(),
            stderr_of_child.as_fd(),
        ],
        extra: &extra,
        report: control_of_child.as_fd(),
        cgroup: cgroup.map(AsFd::as_fd),
        identity: confinement.credentials,
        open_files: confinement.open_files,
        terminal: false,
        fallback: None,
    })?;

    Ok(LaunchedInterpreter {
        pid,
        stdout,
        stderr,
        results: results.map(|(ours, _)| ours),
        stdin_reader,
        message_pipe,
        control_pipe,
    })
}

fn create_memory_file() -> std::io::Result<File> {
    Ok(rustix::fs::memfd_create("main.sh", MemfdFlags::CLOEXEC)?.into())
}

/// Creates an empty `main.ts`, or the first free name like it, and adds it to the command.
fn create_main_file(
    confinement: &Confinement,
    command: &mut InterpreterCommand,
) -> Result<(File, CodeFile), WireError> {
    let created = NumberedFile::create(confinement, "ts", 0o600);
    let created = created.map_err(agent_error("write main.ts to the working directory"))?;
    let main_file = CodeFile {
        directory: created.directory,
        name: created.name,
        written: None,
    };

    // The name is the last argument of the command.
    let argument = ["./", &main_file.name].concat();
    command
        .arguments
        .push(CString::new(argument).unwrap_or_default());

    Ok((created.file, main_file))
}

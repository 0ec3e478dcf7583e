//! Shell scripts that run once: bash is started for each of them, with the script as its file.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use fumehood_protocol::{Language, WireError};
use fumehood_sys::guest::{Fallback, Launch, launch};
use rustix::fs::{MemfdFlags, OFlags, SeekFrom, fcntl_setfl, seek};
use rustix::pipe::{PipeFlags, pipe_with};

use super::command::InterpreterCatalog;
use super::interpreter::{ExecMode, Interpreter, ProgramSpec};
use super::script_file::ScriptFile;
use crate::process::{
    CodeFile, Confinement, Process, Usage, agent_error, input_pipe, open_reader, output_pipe,
};

/// The shell's own words for a file that the kernel cannot execute, with the shell's exit code.
const EXPLAIN: &CStr = c"\"$@\"";

/// A script as a file, and the words that run it.
struct Script {
    /// The program to execute, and its arguments with `argv[0]`.
    program: CString,
    arguments: Vec<CString>,
    /// The path of the script if the kernel reads from its first line what executes it.
    executed: Option<CString>,
    /// A file in memory, on descriptor 3 of the program.
    memory_file: Option<File>,
    /// The file to remove at the end.
    code_file: Option<CodeFile>,
}

/// Whether a bash that waits can run a script: it has been given the script's name, cannot enter another directory before
/// it opens the script, and has no arguments. It would not run the interpreter in the script's first line, either.
pub(crate) fn can_wait_for(program: &ProgramSpec) -> bool {
    let first = program.code.lines().next().unwrap_or_default();
    let is_bash = !first.starts_with("#!") || BASH_LINES.contains(&first.trim_end());
    let are_plain = program
        .variables
        .iter()
        .all(|(name, _)| !SHELL_VARIABLES.contains(&name.as_str()) && !name.starts_with("BASH"));

    program.cwd.is_none() && program.args.is_empty() && is_bash && are_plain
}

/// First lines that name the bash that waits, without options.
const BASH_LINES: [&str; 3] = ["#!/bin/bash", "#!/usr/bin/bash", "#!/usr/bin/env bash"];

/// Variables that mean something to a bash that is running, or cannot be set there. So do those whose names start with
/// `BASH`.
const SHELL_VARIABLES: [&str; 14] = [
    "EUID",
    "HOSTNAME",
    "IFS",
    "LINENO",
    "OPTARG",
    "OPTIND",
    "POSIXLY_CORRECT",
    "PPID",
    "PS4",
    "PWD",
    "RANDOM",
    "SECONDS",
    "SHELLOPTS",
    "UID",
];

/// Starts a script that runs once, with the script's variables and working directory. A script whose first line starts
/// with `#!` is executed, as a user of a shell would execute it; any other is given to bash. Without a file, the script is
/// a file in memory.
///
/// # Errors
/// `agent_error` if this machine lacks bash or cannot start it; `path_error` for the working directory.
pub(crate) fn start_script(
    program: &ProgramSpec,
    file: Option<CodeFile>,
    confinement: &mut Confinement,
    interpreters: &mut InterpreterCatalog,
) -> Result<StartedScript, WireError> {
    let bash = interpreters
        .command(Language::Shell, ExecMode::OneShot)?
        .path;
    let environment = confinement.environment(&program.variables);
    let directory = program.cwd.as_ref();
    let directory = directory
        .map(|path| confinement.open_working_dir(path))
        .transpose()?;

    let script = describe_script(program, file, &bash, confinement);
    let mut script = script.map_err(agent_error("make a file for the script"))?;
    let code_file = script.code_file.take();

    let cgroups = confinement.cgroups.as_mut();
    let cgroup = cgroups.map(|cgroups| cgroups.create()).transpose();
    let mut process = Process::new(0, None, code_file);
    let cgroup = cgroup.map_err(|error| {
        process.clean_up(None);
        agent_error("make a cgroup")(error)
    })?;

    let directory = directory.as_ref().unwrap_or(&confinement.working_dir);
    let launched = launch_script(
        &script,
        &bash,
        program.stdin,
        &environment,
        directory.as_fd(),
        cgroup.as_ref().map(AsFd::as_fd),
        confinement,
    );

    // The cgroup and the file must be removed even if there is no process.
    process.start(launched.as_ref().map_or(0, |launched| launched.pid), cgroup);
    match launched {
        Ok(launched) => {
            let interpreter = Interpreter {
                language: Language::Shell,
                process,
                outputs: [Some(launched.stdout), Some(launched.stderr), None],
                stdin_reader: launched.stdin_reader,
                message_pipe: None,
                control_pipe: launched.control_pipe,
                code_file: None,
                script: None,
                usage: Usage::default(),
                reseed: false,
                has_drawn: false,
                needs_environment: false,
                has_run_user_code: true,
            };
            Ok(StartedScript {
                interpreter,
                input: launched.input,
            })
        }
        Err(error) => {
            process.clean_up(confinement.cgroups.as_mut());
            Err(agent_error("start a process")(error))
        }
    }
}

/// A bash that runs a script.
pub(crate) struct StartedScript {
    pub(crate) interpreter: Interpreter,
    /// The writing end of standard input, if the script has one.
    pub(crate) input: Option<OwnedFd>,
}

struct LaunchedScript {
    pid: i32,
    input: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    stdin_reader: OwnedFd,
    control_pipe: OwnedFd,
}

fn launch_script(
    script: &Script,
    bash: &CStr,
    has_input: bool,
    environment: &[CString],
    directory: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    confinement: &Confinement,
) -> std::io::Result<LaunchedScript> {
    let user = confinement.credentials;
    let (stdout, stdout_of_child) = output_pipe(user)?;
    let (stderr, stderr_of_child) = output_pipe(user)?;
    let (control_pipe, report) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&control_pipe, OFlags::NONBLOCK)?;

    // Without a writer, standard input is at its end.
    let (stdin_of_child, writer) = input_pipe(user)?;
    fcntl_setfl(&writer, OFlags::NONBLOCK)?;
    let stdin_reader = open_reader(&stdin_of_child)?;
    let input = has_input.then_some(writer);

    // Bash knows how to report a file that cannot be executed.
    let explanation = script.executed.as_ref().map(|path| {
        let words = [c"bash", c"-c", EXPLAIN, c"bash", path.as_c_str()];
        let arguments = script.arguments[1..].iter().map(CString::as_c_str);
        words.into_iter().chain(arguments).map(CStr::to_owned)
    });
    let explanation: Vec<CString> = explanation.into_iter().flatten().collect();

    let memory_file = script.memory_file.as_ref().map(AsFd::as_fd);
    let pid = launch(&Launch {
        program: &script.program,
        arguments: &script.arguments,
        environment,
        directory,
        standard: [
            stdin_of_child.as_fd(),
            stdout_of_child.as_fd(),
            stderr_of_child.as_fd(),
        ],
        extra: memory_file.as_slice(),
        report: report.as_fd(),
        cgroup,
        identity: user,
        open_files: confinement.open_files,
        terminal: false,
        fallback: script.executed.is_some().then_some(Fallback {
            program: bash,
            arguments: &explanation,
        }),
    })?;

    Ok(LaunchedScript {
        pid,
        input,
        stdout,
        stderr,
        stdin_reader,
        control_pipe,
    })
}

/// Returns the words that run a script.
fn describe_script(
    program: &ProgramSpec,
    file: Option<CodeFile>,
    bash: &CStr,
    confinement: &Confinement,
) -> std::io::Result<Script> {
    let words = program.args.iter();
    let args = words.map(|text| CString::new(text.as_str()).unwrap_or_default());

    let Some(code_file) = file else {
        let mut file = File::from(rustix::fs::memfd_create("main.sh", MemfdFlags::CLOEXEC)?);
        file.write_all(program.code.as_bytes())?;
        seek(&file, SeekFrom::Start(0))?;

        return Ok(Script {
            program: bash.to_owned(),
            arguments: [c"bash".to_owned(), c"/dev/fd/3".to_owned()]
                .into_iter()
                .chain(args)
                .collect(),
            executed: None,
            memory_file: Some(file),
            code_file: None,
        });
    };

    // The path is relative, as a user would type it, unless the script starts in another directory.
    let name = match &program.cwd {
        None => code_file.name.clone(),
        Some(_) => [&working_dir(confinement)?, "/", &code_file.name].concat(),
    };
    let path = CString::new(name)?;
    let is_executed = program.code.starts_with("#!");

    // A word without a `/` would be searched for in PATH.
    let executed = match path.as_bytes() {
        [b'/', ..] => path.clone(),
        name => CString::new([b"./", name].concat())?,
    };

    let (program, first) = if is_executed {
        (path.clone(), None)
    } else {
        (bash.to_owned(), Some(c"bash".to_owned()))
    };

    Ok(Script {
        program,
        arguments: first.into_iter().chain([path]).chain(args).collect(),
        executed: is_executed.then_some(executed),
        memory_file: None,
        code_file: Some(code_file),
    })
}

/// Returns the path of the working directory.
///
/// # Errors
/// Returns the kernel's error, or that of a path that is not UTF-8.
pub(super) fn working_dir(confinement: &Confinement) -> std::io::Result<String> {
    let link = format!("/proc/self/fd/{}", confinement.working_dir.as_raw_fd());
    let path = std::fs::read_link(link)?.into_os_string().into_string();
    path.map_err(|_| std::io::ErrorKind::InvalidFilename.into())
}

/// Takes the script of a bash that waits, if it is still untouched.
pub(crate) fn take_script(interpreter: &mut Interpreter) -> Option<ScriptFile> {
    interpreter.script.take().filter(ScriptFile::is_untouched)
}

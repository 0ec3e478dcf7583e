use fumehood_protocol::{ContextName, EnvVars, ErrorType, Exec, Language, WireError};

use crate::agent::Agent;
use crate::interpreter::{
    ExecLaunch, ExecMode, Interpreter, InterpreterSlot, ProgramSpec, ScriptFile, acts_at_start,
    can_be_set_later, can_wait_for, may_see_its_file, start_interpreter, start_script, take_script,
};
use crate::process::{agent_error, open_writer};

/// An interpreter for an exec.
struct SelectedInterpreter {
    interpreter: Interpreter,
    /// The variables that it has not been given yet.
    variables: EnvVars,
    /// It was running before this exec.
    is_running: bool,
}

/// Selects the interpreter that an exec runs in, or starts one, and encodes the message that starts the program in it.
/// The exec must have passed its checks.
///
/// # Errors
/// `agent_error` if this machine lacks something; `request_error` and `busy_error` for a context; `env_var_error` for a
/// preparation.
pub(super) fn prepare_launch(exec: Exec, agent: &mut Agent) -> Result<ExecLaunch, WireError> {
    let language = exec.language;
    if language == Language::Shell && exec.context.is_none() && !exec.prepare {
        return launch_script(exec, agent);
    }

    let (mode, slot) = match exec.context {
        Some(name) => (ExecMode::Context, Some(InterpreterSlot::Context(name))),
        None if exec.prepare => (ExecMode::Prepare, Some(InterpreterSlot::Prepared)),
        None => (ExecMode::OneShot, None),
    };

    let SelectedInterpreter {
        mut interpreter,
        variables,
        is_running,
    } = match &slot {
        Some(InterpreterSlot::Context(name)) => {
            select_for_context(name, language, exec.env_vars, agent)?
        }
        Some(InterpreterSlot::Prepared) => select_for_preparation(language, exec.env_vars, agent)?,
        None if exec.fresh => start_new(language, mode, &exec.env_vars, agent)?,
        None => select_for_one_shot(language, exec.env_vars, agent)?,
    };

    let variables = if interpreter.needs_environment {
        variables.over(&agent.confinement.added_environment)
    } else {
        variables
    };

    let state_lost = match &slot {
        Some(InterpreterSlot::Context(name)) => agent.pool.open_context(name, language),
        _ => false,
    };

    let mut program = ProgramSpec {
        mode,
        display: exec.display,
        stdin: exec.stdin,
        cwd: exec.cwd,
        variables,
        args: exec.args,
        code: exec.code,
    };

    // A context has no file.
    if language == Language::Python && mode == ExecMode::Context {
        interpreter.process.remove_code_file();
    }

    // Python's arguments start with the program's file, as in `sys.argv`.
    if language == Language::Python && mode == ExecMode::OneShot {
        let is_needed = !is_running || may_see_its_file(&program.code);
        let name = if is_needed {
            interpreter.write_python_main(&program.code, &agent.confinement)
        } else {
            // If the program fails, the interpreter writes it for the lines in the traceback.
            interpreter.process.expect_code(program.code.len());
            None
        };
        program.args.insert(0, name.unwrap_or_default());
    }

    let input = exec
        .stdin
        .then(|| open_writer(&interpreter.stdin_reader))
        .transpose();

    let encoded = input.and_then(|input| Ok((input, interpreter.encode_message(&program)?)));
    match encoded {
        Ok((input, message)) => Ok(ExecLaunch {
            interpreter,
            message: Some(message),
            mode,
            slot,
            state_lost,
            is_running,
            display: program.display,
            input,
        }),
        Err(error) => {
            if let Some(slot) = &slot {
                agent.pool.mark_lost(slot);
            }
            Err(abandon(interpreter, agent, error))
        }
    }
}

/// Gives up an interpreter that did not get its code: it is in an unknown state and must not be used again.
fn abandon(interpreter: Interpreter, agent: &mut Agent, error: std::io::Error) -> WireError {
    interpreter.process.kill();
    agent.abandoned.push(interpreter.process);
    agent_error("hand over the code")(error)
}

/// Starts bash with a script, or gives the script to a bash that waits at its very start.
///
/// # Errors
/// `agent_error` if this machine lacks something; `path_error` for the working directory.
fn launch_script(exec: Exec, agent: &mut Agent) -> Result<ExecLaunch, WireError> {
    let can_wait = !exec.fresh && all_can_be_set_later(&exec.env_vars, agent);
    let mut program = ProgramSpec {
        mode: ExecMode::OneShot,
        display: exec.display,
        stdin: exec.stdin,
        cwd: exec.cwd,
        variables: exec.env_vars,
        args: exec.args,
        code: exec.code,
    };

    // A bash that waits is used up by any script, because the script gets its file. If there is no place for a file, the
    // script still runs.
    let mut waiting = agent.pool.take_prepared(Language::Shell);
    let script = waiting.as_mut().and_then(take_script);
    let can_wait = can_wait && script.is_some() && can_wait_for(&program);
    let script = script.map_or_else(|| ScriptFile::create(&agent.confinement), Ok);
    let file = script.and_then(|script| script.write(&program.code)).ok();

    let (waiting, unusable) = if can_wait && file.is_some() {
        (waiting, None)
    } else {
        (None, waiting)
    };
    if let Some(unusable) = unusable {
        unusable.process.kill();
        agent.abandoned.push(unusable.process);
    }

    let is_running = waiting.is_some();
    let (interpreter, input, message) = match (waiting, file) {
        (Some(mut interpreter), Some(file)) => {
            interpreter.process.set_code_file(file);
            if interpreter.needs_environment {
                let variables = program.variables;
                program.variables = variables.over(&agent.confinement.added_environment);
            }
            let input = program
                .stdin
                .then(|| open_writer(&interpreter.stdin_reader));
            let message = interpreter.encode_message(&program);
            (interpreter, input.transpose(), message.map(Some))
        }
        (_, file) => {
            let (confinement, interpreters) = (&mut agent.confinement, &mut agent.interpreters);
            let started = start_script(&program, file, confinement, interpreters)?;
            (started.interpreter, Ok(started.input), Ok(None))
        }
    };

    match input.and_then(|input| Ok((input, message?))) {
        Ok((input, message)) => Ok(ExecLaunch {
            interpreter,
            message,
            mode: program.mode,
            slot: None,
            state_lost: false,
            is_running,
            display: program.display,
            input,
        }),
        Err(error) => Err(abandon(interpreter, agent, error)),
    }
}

/// Selects the interpreter of a context. The first exec of a context takes the prepared interpreter if there is one.
/// Variables that act only at start stay set in a context that was started with them.
fn select_for_context(
    name: &ContextName,
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<SelectedInterpreter, WireError> {
    let limits = &agent.settings.limits;
    if let Some(interpreter) = agent.pool.take_context(name, language, limits)? {
        return Ok(SelectedInterpreter {
            interpreter,
            variables,
            is_running: true,
        });
    }

    if all_can_be_set_later(&variables, agent) {
        return take_or_start(language, ExecMode::Context, variables, agent);
    }

    // Start it with the variables that act only then; the others belong to this exec.
    let of_kind = |at_start: bool| {
        let pairs = variables.iter();
        let pairs = pairs.filter(|(name, _)| acts_at_start(name) == at_start);
        pairs.map(|(n, v)| (n.clone(), v.clone())).collect()
    };

    let selected = start_new(language, ExecMode::Context, &of_kind(true), agent)?;

    Ok(SelectedInterpreter {
        variables: of_kind(false),
        ..selected
    })
}

fn select_for_preparation(
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<SelectedInterpreter, WireError> {
    if let Some((name, _)) = variables.iter().find(|(name, _)| acts_at_start(name)) {
        let message = format!(
            "the environment variable `{name}` acts only when an interpreter starts, and would stay set \
             in the prepared one; prepare without it"
        );
        return Err(WireError::new(ErrorType::EnvVarError, message));
    }

    take_or_start(language, ExecMode::Prepare, variables, agent)
}

/// Selects an interpreter that ends with the program: the prepared one, if it exists and can take these variables. It
/// does not wait for one that is still being prepared.
fn select_for_one_shot(
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<SelectedInterpreter, WireError> {
    if agent.pool.has_prepared(language) && all_can_be_set_later(&variables, agent) {
        take_or_start(language, ExecMode::OneShot, variables, agent)
    } else {
        start_new(language, ExecMode::OneShot, &variables, agent)
    }
}

/// Whether a running interpreter can take these variables and those of the last refresh.
fn all_can_be_set_later(variables: &EnvVars, agent: &Agent) -> bool {
    can_be_set_later(variables) && can_be_set_later(&agent.confinement.added_environment)
}

/// Takes the prepared interpreter, or starts a new one. A bash that waits can only run a script once.
fn take_or_start(
    language: Language,
    mode: ExecMode,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<SelectedInterpreter, WireError> {
    let taken = match (language, mode) {
        (Language::Shell, ExecMode::Context) => None,
        _ => agent.pool.take_prepared(language),
    };
    let is_running = taken.is_some();

    let interpreter = match taken {
        Some(interpreter) => interpreter,
        None => start_new(language, mode, &EnvVars::default(), agent)?.interpreter,
    };

    Ok(SelectedInterpreter {
        interpreter,
        variables,
        is_running,
    })
}

/// Starts an interpreter for this mode with these variables in its environment.
fn start_new(
    language: Language,
    mode: ExecMode,
    variables: &EnvVars,
    agent: &mut Agent,
) -> Result<SelectedInterpreter, WireError> {
    let (confinement, interpreters) = (&mut agent.confinement, &mut agent.interpreters);
    Ok(SelectedInterpreter {
        interpreter: start_interpreter(language, mode, variables, confinement, interpreters)?,
        variables: EnvVars::default(),
        is_running: false,
    })
}

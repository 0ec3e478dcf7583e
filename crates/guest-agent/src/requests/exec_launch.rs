use fumehood_protocol::{ContextName, EnvVars, ErrorType, Exec, Language, WireError};

use crate::agent::Agent;
use crate::interpreter::{
    ExecLaunch, ExecMode, Interpreter, InterpreterSlot, ProgramSpec, acts_at_start,
    can_be_set_later, may_see_its_file, start_interpreter,
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
        None if exec.fresh => start_new(language, &exec.env_vars, agent)?,
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
            message,
            mode,
            slot,
            state_lost,
            is_running,
            display: program.display,
            input,
        }),
        // The interpreter is in an unknown state and must not be used again.
        Err(error) => {
            interpreter.process.kill();
            agent.abandoned.push(interpreter.process);
            if let Some(slot) = &slot {
                agent.pool.mark_lost(slot);
            }
            Err(agent_error("hand over the code")(error))
        }
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
        return take_or_start(language, variables, agent);
    }

    // Start it with the variables that act only then; the others belong to this exec.
    let of_kind = |at_start: bool| {
        let pairs = variables.iter();
        let pairs = pairs.filter(|(name, _)| acts_at_start(name) == at_start);
        pairs.map(|(n, v)| (n.clone(), v.clone())).collect()
    };

    let selected = start_new(language, &of_kind(true), agent)?;

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

    take_or_start(language, variables, agent)
}

/// Selects an interpreter that ends with the program: the prepared one, if it exists and can take these variables. It
/// does not wait for one that is still being prepared.
fn select_for_one_shot(
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<SelectedInterpreter, WireError> {
    if agent.pool.has_prepared(language) && all_can_be_set_later(&variables, agent) {
        take_or_start(language, variables, agent)
    } else {
        start_new(language, &variables, agent)
    }
}

/// Whether a running interpreter can take these variables and those of the last refresh.
fn all_can_be_set_later(variables: &EnvVars, agent: &Agent) -> bool {
    can_be_set_later(variables) && can_be_set_later(&agent.confinement.added_environment)
}

/// Takes the prepared interpreter, or starts a new one.
fn take_or_start(
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<SelectedInterpreter, WireError> {
    let taken = agent.pool.take_prepared(language);
    let is_running = taken.is_some();

    let interpreter = match taken {
        Some(interpreter) => interpreter,
        None => start_new(language, &EnvVars::default(), agent)?.interpreter,
    };

    Ok(SelectedInterpreter {
        interpreter,
        variables,
        is_running,
    })
}

/// Starts an interpreter with these variables in its environment.
fn start_new(
    language: Language,
    variables: &EnvVars,
    agent: &mut Agent,
) -> Result<SelectedInterpreter, WireError> {
    let (confinement, interpreters) = (&mut agent.confinement, &mut agent.interpreters);
    Ok(SelectedInterpreter {
        interpreter: start_interpreter(language, variables, confinement, interpreters)?,
        variables: EnvVars::default(),
        is_running: false,
    })
}

use fumehood_protocol::{EnvVars, ErrorType, Exec, Language, WireError};

use crate::dispatch::Agent;
use crate::interpreter::{Interpreter, Mode, can_be_set_later};
use crate::kept::Home;
use crate::operation::Begun;
use crate::spawn::{failed, start};

/// An interpreter for an exec, and what it does not know of the exec's variables yet.
struct Obtained {
    interpreter: Interpreter,
    variables: EnvVars,
    is_up: bool,
}

/// Finds the interpreter that an exec is to run in, or starts one, and makes the message that begins it.
/// The exec must have passed its checks.
///
/// # Errors
/// `agent_error`: what this machine cannot do, or lacks; `request_error` and `busy_error` for a context.
pub(crate) fn begin(exec: Exec, agent: &mut Agent) -> Result<Begun, WireError> {
    let language = exec.language;
    let (mode, home, obtained) = if exec.prepare {
        let obtained = waiting(language, exec.env_vars, agent)?;
        (Mode::Prepare, Some(Home::Waiting), obtained)
    } else if let Some(name) = exec.context {
        if language == Language::Javascript {
            let message =
                "field `context`: there are no contexts of javascript yet; run it without one";
            return Err(WireError::new(ErrorType::RequestError, message));
        }
        let limits = &agent.settings.limits;
        let obtained = match agent.kept.take_context(&name, language, limits)? {
            Some(interpreter) => Obtained {
                interpreter,
                variables: exec.env_vars,
                is_up: true,
            },
            None => waiting(language, exec.env_vars, agent)?,
        };
        agent.kept.begun(&name, language);
        (Mode::Context, Some(Home::Context(name)), obtained)
    } else if exec.fresh {
        (Mode::Once, None, new(language, &exec.env_vars, agent)?)
    } else {
        let is_there = agent.kept.is_waiting(language) && can_be_set_later(&exec.env_vars);
        let obtained = if is_there {
            waiting(language, exec.env_vars, agent)?
        } else {
            new(language, &exec.env_vars, agent)?
        };
        (Mode::Once, None, obtained)
    };
    let Obtained {
        mut interpreter,
        variables,
        is_up,
    } = obtained;
    match interpreter.message(mode, &variables, exec.code) {
        Ok(message) => Ok(Begun {
            interpreter,
            message,
            mode,
            home,
            is_up,
        }),
        Err(error) => {
            interpreter.process.kill();
            agent.abandoned.push(interpreter.process);
            if let Some(home) = &home {
                agent.kept.lost(home);
            }
            Err(failed("hand over the code")(error))
        }
    }
}

/// The interpreter that waits, where there is one that can take these variables; else a new one.
fn waiting(
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<Obtained, WireError> {
    if !can_be_set_later(&variables) {
        return new(language, &variables, agent);
    }
    let taken = agent.kept.take_waiting(language);
    let is_up = taken.is_some();
    let interpreter = match taken {
        Some(interpreter) => interpreter,
        None => new(language, &EnvVars::default(), agent)?.interpreter,
    };
    Ok(Obtained {
        interpreter,
        variables,
        is_up,
    })
}

/// A new interpreter with these variables in its environment.
fn new(language: Language, variables: &EnvVars, agent: &mut Agent) -> Result<Obtained, WireError> {
    let (confinement, interpreters) = (&mut agent.confinement, &mut agent.interpreters);
    Ok(Obtained {
        interpreter: start(language, variables, confinement, interpreters)?,
        variables: EnvVars::default(),
        is_up: false,
    })
}

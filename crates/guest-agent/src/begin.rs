use fumehood_protocol::{ContextName, EnvVars, ErrorType, Exec, Language, WireError};

use crate::agent::Agent;
use crate::input::writer;
use crate::interpreter::{Interpreter, Mode, Text, acts_at_start, can_be_set_later};
use crate::kept::Home;
use crate::spawn::{failed, start};
use crate::talk::Begun;

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
/// `agent_error`: what this machine cannot do, or lacks; `request_error` and `busy_error` for a context;
/// `env_var_error` for a preparation.
pub(crate) fn begin(exec: Exec, agent: &mut Agent) -> Result<Begun, WireError> {
    let language = exec.language;
    let (mode, home) = match exec.context {
        Some(name) => (Mode::Context, Some(Home::Context(name))),
        None if exec.prepare => (Mode::Prepare, Some(Home::Waiting)),
        None => (Mode::Once, None),
    };
    let obtained = match &home {
        Some(Home::Context(name)) => in_context(name, language, exec.env_vars, agent)?,
        Some(Home::Waiting) => to_prepare(language, exec.env_vars, agent)?,
        None if exec.fresh => new(language, &exec.env_vars, agent)?,
        None => for_one(language, exec.env_vars, agent)?,
    };
    let Obtained {
        mut interpreter,
        variables,
        is_up,
    } = obtained;
    let variables = match interpreter.lacks_environment {
        true => variables.over(&agent.confinement.brought),
        false => variables,
    };
    let anew = match &home {
        Some(Home::Context(name)) => agent.kept.begun(name, language),
        _ => false,
    };
    let text = Text {
        mode,
        display: exec.display,
        stdin: exec.stdin,
        cwd: exec.cwd,
        variables,
        code: exec.code,
    };
    let input = exec.stdin.then(|| writer(&interpreter.input)).transpose();
    let told = input.and_then(|input| Ok((input, interpreter.message(&text)?)));
    match told {
        Ok((input, message)) => Ok(Begun {
            interpreter,
            message,
            mode,
            home,
            anew,
            is_up,
            display: text.display,
            input,
        }),
        Err(error) => {
            interpreter.process.kill();
            agent.abandoned.push(interpreter.process);
            if let Some(home) = &home {
                agent.kept.lose(home);
            }
            Err(failed("hand over the code")(error))
        }
    }
}

/// The context's interpreter. Its first exec begins it, in the interpreter that waits if one does.
/// Variables that act at a start stay with a context that they have begun.
fn in_context(
    name: &ContextName,
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<Obtained, WireError> {
    let limits = &agent.settings.limits;
    if let Some(interpreter) = agent.kept.take_context(name, language, limits)? {
        return Ok(Obtained {
            interpreter,
            variables,
            is_up: true,
        });
    }
    if all_can_be_set_later(&variables, agent) {
        return waiting(language, variables, agent);
    }
    let of_kind = |at_start: bool| {
        let pairs = variables.iter();
        let pairs = pairs.filter(|(name, _)| acts_at_start(name) == at_start);
        pairs.map(|(n, v)| (n.clone(), v.clone())).collect()
    };
    let obtained = new(language, &of_kind(true), agent)?;
    Ok(Obtained {
        variables: of_kind(false),
        ..obtained
    })
}

fn to_prepare(
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<Obtained, WireError> {
    if let Some((name, _)) = variables.iter().find(|(name, _)| acts_at_start(name)) {
        let message = format!(
            "the environment variable `{name}` acts only when an interpreter starts, and would stay in \
             the one that waits: prepare without it"
        );
        return Err(WireError::new(ErrorType::EnvVarError, message));
    }
    waiting(language, variables, agent)
}

/// For a program that its interpreter ends with: the one that waits, where one does and can take these
/// variables. What is not there yet is not worth waiting for.
fn for_one(
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<Obtained, WireError> {
    if agent.kept.is_waiting(language) && all_can_be_set_later(&variables, agent) {
        waiting(language, variables, agent)
    } else {
        new(language, &variables, agent)
    }
}

/// Whether an interpreter that has started can take these variables, and those that all programs have.
fn all_can_be_set_later(variables: &EnvVars, agent: &Agent) -> bool {
    can_be_set_later(variables) && can_be_set_later(&agent.confinement.brought)
}

/// The interpreter that waits, or a new one.
fn waiting(
    language: Language,
    variables: EnvVars,
    agent: &mut Agent,
) -> Result<Obtained, WireError> {
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

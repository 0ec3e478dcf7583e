use std::time::Duration;

use fumehood_protocol::{
    ActionTag, Complete, EnvVars, Exec, GuestPath, Language, Quiesce, Refresh, Request, Stat,
    Stream,
};

use super::running_programs::RunningPrograms;
use super::template_spec::TemplateSpec;
use crate::agent::{Channel, ChannelError, OperationEvent};
use crate::error::{Error, ErrorKind};

/// Timeout of a primer: it takes 2 s in a guest that has just booted, on a machine without other load.
const PRIMER_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of a primer that imports a package set: half a minute under emulation.
const BUNDLE_PRIMER_TIMEOUT: Duration = Duration::from_secs(300);
/// See [`clear_free_memory`].
const CLEAR_MEMORY: &str = include_str!("../../primers/clear_memory.py");
/// How long the agent may take to freeze the user's processes, or to thaw them.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns a program that uses much of what programs in this language use, and imports the package set.
fn primer(spec: &TemplateSpec) -> String {
    let primer = match spec.language {
        Language::Python => include_str!("../../primers/python.py"),
        Language::Javascript => include_str!("../../primers/javascript.ts"),
        Language::Shell => include_str!("../../primers/shell.sh"),
    };
    let addition = spec.bundle.map_or("", |bundle| bundle.primer);

    [primer, addition].concat()
}

/// Returns all programs that run before the state is saved.
pub(super) fn warmup_programs(spec: &TemplateSpec) -> String {
    let clear = spec.bundle.map_or("", |_| CLEAR_MEMORY);
    primer(spec) + clear
}

/// Runs the primer in the interpreter that waits for the first program. The interpreter keeps waiting.
///
/// # Errors
/// Returns [`ErrorKind::Boot`] if it fails; the guest must not be used.
pub(crate) async fn run_primer(channel: &Channel, spec: &TemplateSpec) -> Result<(), Error> {
    let timeout = match spec.bundle {
        Some(_) => BUNDLE_PRIMER_TIMEOUT,
        None => PRIMER_TIMEOUT,
    };
    prepare(channel, spec.language, primer(spec), timeout).await
}

/// Runs a program that frees the guest's page cache and fills its free memory with zeros, which are not part of a saved
/// state: the files that a package set has read would more than double it. Only for templates: a guest that was restored
/// would take all of its memory.
///
/// # Errors
/// As [`run_primer`].
pub(crate) async fn clear_free_memory(channel: &Channel, spec: &TemplateSpec) -> Result<(), Error> {
    match spec.language {
        Language::Python => {
            let program = CLEAR_MEMORY.to_string();
            prepare(channel, spec.language, program, PRIMER_TIMEOUT).await
        }
        Language::Javascript | Language::Shell => Ok(()),
    }
}

/// Runs a program in the interpreter that waits for the first program. The interpreter keeps waiting.
async fn prepare(
    channel: &Channel,
    language: Language,
    program: String,
    timeout: Duration,
) -> Result<(), Error> {
    let mut exec = Exec::new(language, program);
    exec.prepare = true;
    // Exercise the path of requests that set a variable.
    exec.env_vars = [("PRIMED", "1")].into_iter().collect::<EnvVars>();
    run_to_success(channel, exec, timeout).await.map(drop)
}

/// Runs a program as a user does, to its end: it has an interpreter of its own, as each program of a user. Its output must be
/// [`FIRST_OUTPUT`].
///
/// # Errors
/// Returns [`ErrorKind::Boot`] if it fails; the guest must not be used.
pub(super) async fn run_first_program(channel: &Channel, language: Language) -> Result<(), Error> {
    let code = match language {
        Language::Python => "print(6*7)",
        Language::Javascript => "console.log(6*7)",
        Language::Shell => "echo 42",
    };
    let output = run_to_success(channel, Exec::new(language, code), PRIMER_TIMEOUT).await?;
    if output == FIRST_OUTPUT {
        return Ok(());
    }

    let output = String::from_utf8_lossy(&output);
    let message = format!("warming up a VM failed: a program wrote {output:?} instead of 42");
    Err(Error::new(ErrorKind::Boot, message))
}

/// Whether the interpreter that waits has another file than `main.py` (or `main.ts`, `main.sh`): the last program still had
/// that one when the interpreter started, since the end of a program is reported before its file is removed.
///
/// # Errors
/// Returns [`ErrorKind::Boot`] if the guest does not answer as specified.
pub(super) async fn has_second_file(channel: &Channel, language: Language) -> Result<bool, Error> {
    let name = match language {
        Language::Python => "main.2.py",
        Language::Javascript => "main.2.ts",
        Language::Shell => "main.2.sh",
    };
    let failed = |why: &str| {
        let message = format!("looking for {name} in a warm VM failed: {why}");
        Error::new(ErrorKind::Boot, message)
    };

    let request = |op_id| {
        Request::Stat(Stat {
            action: ActionTag,
            op_id: Some(op_id),
            path: GuestPath::new(name),
        })
    };
    match channel.ask(request, PRIMER_TIMEOUT).await {
        Ok(OperationEvent::Answer(_)) => Ok(true),
        Ok(OperationEvent::Refused(_)) => Ok(false),
        Ok(other) => Err(failed(&format!("unexpected answer: {other:?}"))),
        Err(error) => Err(failed(&error.to_string())),
    }
}

/// The output of the program of [`run_first_program`].
const FIRST_OUTPUT: &[u8] = b"42\n";

/// Runs a program that must succeed. Returns its standard output.
async fn run_to_success(
    channel: &Channel,
    exec: Exec,
    timeout: Duration,
) -> Result<Vec<u8>, Error> {
    let mut operation = channel.start_operation(|op_id, credit| {
        Request::Exec(Exec {
            op_id: Some(op_id),
            credit: Some(credit),
            timeout: Some(i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX)),
            ..exec
        })
    });

    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let run = async {
        loop {
            match operation.next().await? {
                OperationEvent::Output(stream, bytes) => {
                    match stream {
                        Stream::Stdout => stdout.extend_from_slice(&bytes),
                        _ => stderr.extend_from_slice(&bytes),
                    }
                    operation.return_credit();
                }
                OperationEvent::Started(_) => {}
                end => return Ok::<_, ChannelError>(end),
            }
        }
    };

    let failed = |why: String| {
        let message = format!("warming up a VM failed: {why}");
        Error::new(ErrorKind::Boot, message)
    };

    let end = tokio::time::timeout(timeout, run).await;
    match end.map_err(|_| failed("the program timed out".into()))? {
        Ok(OperationEvent::Complete(Complete { exit_code: 0, .. })) => Ok(stdout),
        Ok(OperationEvent::Complete(complete)) => Err(failed(format!(
            "the program ended ({}, exit code {}): {}",
            complete.ended_by,
            complete.exit_code,
            String::from_utf8_lossy(&stderr)
        ))),
        Ok(OperationEvent::Refused(refusal)) => Err(failed(refusal.message)),
        Ok(other) => Err(failed(format!("unexpected answer: {other:?}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Prepares the guest for its state to be saved: no process of the user runs until a refresh. Returns the programs that
/// continue in each copy.
///
/// # Errors
/// Returns [`ErrorKind::InUse`] while programs run in it, and [`ErrorKind::Lost`].
pub(crate) async fn quiesce(channel: &Channel) -> Result<RunningPrograms, Error> {
    let request = |op_id| {
        Request::Quiesce(Quiesce {
            action: ActionTag,
            op_id: Some(op_id),
        })
    };

    let failed = |why: String| {
        let message = format!("freezing the guest to save its state failed: {why}");
        Error::new(ErrorKind::Lost, message)
    };

    match channel.ask(request, QUIESCE_TIMEOUT).await {
        Ok(OperationEvent::Quiesced(quiesced)) => Ok(quiesced.into()),
        Ok(OperationEvent::Refused(refusal)) => {
            let message = format!("cannot save the sandbox's state now: {}", refusal.message);
            Err(Error::new(ErrorKind::InUse, message))
        }
        Ok(other) => Err(failed(format!("unexpected answer: {other:?}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Gives the guest its identity again after its state was saved, and thaws it.
///
/// # Errors
/// Returns [`ErrorKind::Lost`]; the guest must not be used any more.
pub(crate) async fn refresh(channel: &Channel, refresh: Refresh) -> Result<(), Error> {
    let request = |op_id| {
        Request::Refresh(Refresh {
            op_id: Some(op_id),
            ..refresh
        })
    };

    let failed = |why: String| {
        let message = format!("refreshing the guest after its state was saved failed: {why}");
        Error::new(ErrorKind::Lost, message)
    };

    match channel.ask(request, QUIESCE_TIMEOUT).await {
        Ok(OperationEvent::Refreshed) => Ok(()),
        Ok(OperationEvent::Refused(refusal)) => Err(failed(refusal.message)),
        Ok(other) => Err(failed(format!("unexpected answer: {other:?}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

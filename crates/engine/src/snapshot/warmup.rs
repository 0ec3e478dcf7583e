use std::time::Duration;

use fumehood_protocol::{ActionTag, Complete, EnvVars, Exec, Language, Quiesce, Refresh, Request};

use crate::agent::{Channel, ChannelError, OperationEvent};
use crate::error::{Error, ErrorKind};

/// How long a primer may run: it takes 2 s in a guest that was just booted, alone on a machine.
const PRIMER: Duration = Duration::from_secs(60);
/// How long the agent may take to freeze the user's processes, or to thaw them.
const QUIESCE: Duration = Duration::from_secs(20);

/// A program that uses much of what programs of this language use.
pub(crate) fn primer(language: Language) -> &'static str {
    match language {
        Language::Python => include_str!("../../primers/python.py"),
        Language::Javascript => include_str!("../../primers/javascript.ts"),
        Language::Shell => include_str!("../../primers/shell.sh"),
    }
}

/// Runs the primer in the interpreter that waits for the first program; it goes on waiting.
///
/// # Errors
/// [`ErrorKind::Boot`]: the guest did not do it, and is not to be used.
pub(crate) async fn run_primer(channel: &Channel, language: Language) -> Result<(), Error> {
    let mut operation = channel.start_operation(|op_id, credit| {
        let mut exec = Exec::new(language, primer(language));
        exec.op_id = Some(op_id);
        exec.credit = Some(credit);
        exec.prepare = true;
        exec.timeout = Some(i64::try_from(PRIMER.as_secs()).unwrap_or(i64::MAX));
        // As requests have it that set a variable.
        exec.env_vars = [("PRIMED", "1")].into_iter().collect::<EnvVars>();
        Request::Exec(exec)
    });
    let failed = |why: String| {
        Error::new(
            ErrorKind::Boot,
            format!("a VM could not be warmed up: {why}"),
        )
    };
    let mut complaint = Vec::new();
    let all = async {
        loop {
            match operation.next().await? {
                OperationEvent::Output(stream, bytes) => {
                    if stream == fumehood_protocol::Stream::Stderr {
                        complaint.extend_from_slice(&bytes);
                    }
                    operation.return_credit();
                }
                end => return Ok::<_, ChannelError>(end),
            }
        }
    };
    let end = tokio::time::timeout(PRIMER, all).await;
    match end.map_err(|_| failed("it took too long".into()))? {
        Ok(OperationEvent::Complete(Complete { exit_code: 0, .. })) => Ok(()),
        Ok(OperationEvent::Complete(complete)) => Err(failed(format!(
            "the primer ended by {:?} with {}: {}",
            complete.ended_by,
            complete.exit_code,
            String::from_utf8_lossy(&complaint)
        ))),
        Ok(OperationEvent::Refused(refusal)) => Err(failed(refusal.message)),
        Ok(other) => Err(failed(format!("the agent answered {other:?}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Makes the guest ready for its state to be saved: nothing of the user's runs until a refresh.
///
/// # Errors
/// [`ErrorKind::InUse`] while programs run in it; [`ErrorKind::Lost`].
pub(crate) async fn quiesce(channel: &Channel) -> Result<(), Error> {
    let request = |op_id| {
        Request::Quiesce(Quiesce {
            action: ActionTag,
            op_id: Some(op_id),
        })
    };
    let lost = |why: String| {
        let message = format!("the guest did not come to rest for its state to be saved: {why}");
        Error::new(ErrorKind::Lost, message)
    };
    match channel.ask(request, QUIESCE).await {
        Ok(OperationEvent::Quiesced) => Ok(()),
        Ok(OperationEvent::Refused(refusal)) => {
            let message = format!(
                "the sandbox's state cannot be saved now: {}",
                refusal.message
            );
            Err(Error::new(ErrorKind::InUse, message))
        }
        Ok(other) => Err(lost(format!("the agent answered {other:?}"))),
        Err(error) => Err(lost(error.to_string())),
    }
}

/// Makes the guest one of its own again, after its state was saved.
///
/// # Errors
/// [`ErrorKind::Lost`]: it must not be used any more.
pub(crate) async fn refresh(channel: &Channel, fresh: Refresh) -> Result<(), Error> {
    let request = |op_id| {
        Request::Refresh(Refresh {
            op_id: Some(op_id),
            ..fresh
        })
    };
    let lost = |why: String| {
        let message = format!("the guest was not refreshed after its state was saved: {why}");
        Error::new(ErrorKind::Lost, message)
    };
    match channel.ask(request, QUIESCE).await {
        Ok(OperationEvent::Refreshed) => Ok(()),
        Ok(OperationEvent::Refused(refusal)) => Err(lost(refusal.message)),
        Ok(other) => Err(lost(format!("the agent answered {other:?}"))),
        Err(error) => Err(lost(error.to_string())),
    }
}

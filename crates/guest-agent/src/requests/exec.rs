use std::time::{Duration, Instant};

use fumehood_protocol::{Exec, ProcessKind, Request, WireError};

use super::admission::{check_input_op_id, check_operation_limit};
use super::attach::{attach_to, look_up_key};
use super::client::Client;
use super::context_queue::{enqueue, must_wait};
use super::exec_launch::prepare_launch;
use crate::agent::Agent;
use crate::operation::{Follower, Operation, OperationParams};

/// Runs code in an interpreter, or queues it behind the exec that its context is running.
///
/// # Errors
/// What [`Exec::check`] returns; `path_error` for the working directory; `busy_error` and
/// `request_error` for the context and the key; `agent_error` if this machine lacks something.
pub(super) fn exec(
    client: &mut Client,
    exec: Exec,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    let encoding = client.connection.session.encoding;
    exec.check(&agent.settings.limits)?;
    check_input_op_id(exec.stdin, exec.op_id)?;

    // A key that is known attaches to its operation instead of running the code again.
    let mut keyed = None;

    if let Some(key) = &exec.idempotency_key {
        let without_client = Exec {
            op_id: None,
            credit: None,
            ..exec.clone()
        };

        let lookup = look_up_key(key, &Request::Exec(without_client), agent)?;
        if lookup.is_known {
            let follower = Follower {
                op_id: exec.op_id,
                encoding,
                credit: exec.credit,
                from_seq: 0,
            };

            return attach_to(client, key, follower, agent);
        }

        keyed = Some(lookup.keyed);
    }

    check_operation_limit(client, agent)?;
    if let Some(path) = &exec.cwd {
        // Only checks that the directory can be entered; the interpreter enters it.
        agent.confinement.open_working_dir(path)?;
    }

    let limits = &agent.settings.limits;
    let params = OperationParams {
        client: Some(client.connection.id),
        keyed,
        tag: None,
        kind: ProcessKind::Exec,
        op_id: exec.op_id,
        encoding,
        credit: exec.credit,
        timeout: Some(Duration::from_secs(exec.timeout_s(limits)?)),
        arrived: now,
    };

    if must_wait(agent, &exec) {
        return enqueue(agent, exec, params);
    }

    let launch = prepare_launch(exec, agent)?;
    let operation = Operation::for_exec(params, launch, &agent.settings.limits);
    agent.operations.add(operation);

    Ok(())
}

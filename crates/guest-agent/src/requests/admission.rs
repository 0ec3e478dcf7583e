use fumehood_protocol::{ErrorType, OpId, Request, WireError};

use super::client::Client;
use crate::agent::Agent;

/// Returns the request if this client may send it in its session.
///
/// # Errors
/// `auth_error` before a successful `hello`; `request_error` if the `op_id` is in use.
pub(super) fn check_session(
    client: &Client,
    request: Request,
    agent: &Agent,
) -> Result<Request, WireError> {
    if matches!(request, Request::Hello(_)) {
        return Ok(request);
    }

    if !client.connection.session.authorised {
        let message = "authentication required: send `hello` with the right token first";
        return Err(WireError::new(ErrorType::AuthError, message));
    }

    let op_id = request
        .op_id()
        .filter(|_| !request.targets_running_operation());

    match op_id.filter(|id| client.is_live(*id, agent)) {
        None => Ok(request),
        Some(id) => {
            let message =
                format!("field `op_id`: {id} belongs to an unfinished operation; use another id");
            Err(WireError::new(ErrorType::RequestError, message))
        }
    }
}

/// Rejects requests that are not allowed between a restore and its `refresh`.
///
/// # Errors
/// `refresh_error`.
pub(super) fn check_refreshed(agent: &Agent, request: &Request) -> Result<(), WireError> {
    let awaits = agent.identity.as_ref().is_some_and(|i| i.awaits_refresh);
    let is_always_allowed = matches!(
        request,
        Request::Hello(_) | Request::Ping(_) | Request::Quiesce(_) | Request::Refresh(_)
    );

    // Requests about another operation are harmless: they find none.
    if !awaits || is_always_allowed || request.targets_running_operation() {
        return Ok(());
    }

    let message = "the guest's state was saved and it waits for `refresh`; send that first";

    Err(WireError::new(ErrorType::RefreshError, message))
}

/// Rejects one operation more than the limit allows.
///
/// # Errors
/// `busy_error`.
pub(super) fn check_operation_limit(client: &Client, agent: &Agent) -> Result<(), WireError> {
    let live = client.live_operations(agent) as u64;
    let max = agent.settings.limits.operations;
    if live < max {
        return Ok(());
    }

    let message = format!(
        "{live} operations are running on this connection, of at most {max}; try again when one has ended"
    );

    Err(WireError::new(ErrorType::BusyError, message))
}

/// Rejects an operation that takes input but has no id: no input could be sent to it.
///
/// # Errors
/// `request_error`.
pub(super) fn check_input_op_id(takes_input: bool, op_id: Option<OpId>) -> Result<(), WireError> {
    if !takes_input || op_id.is_some() {
        return Ok(());
    }
    let message = "field `op_id` is missing: input can only be sent to an operation with an id";
    Err(WireError::new(ErrorType::RequestError, message))
}

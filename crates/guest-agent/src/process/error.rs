use fumehood_protocol::{ErrorType, WireError};

/// Returns a function that turns the error of a step into an `agent_error`. `what` names the step.
pub(crate) fn agent_error<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> WireError {
    move |error| {
        let message = format!(
            "the agent could not {what}: {error}; free memory, processes or disk space in the guest, or use a new one"
        );
        WireError::new(ErrorType::AgentError, message)
    }
}

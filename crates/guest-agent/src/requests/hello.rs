use fumehood_protocol::{
    ErrorType, FEATURE_CANCEL, FEATURE_CONTEXTS, FEATURE_CREDIT, FEATURE_FILES, FEATURE_PROCESSES,
    FEATURE_RAW_FRAMES, FEATURE_REFRESH, Hello, HelloReply, Limits, PROTOCOL_VERSION, Response,
    WireError, constant_time_eq,
};

use super::client::Client;
use crate::agent::Agent;
use crate::settings::VERSION;
use crate::transport::{Encoding, Session};

const FEATURES: [&str; 7] = [
    FEATURE_RAW_FRAMES,
    FEATURE_CREDIT,
    FEATURE_CANCEL,
    FEATURE_CONTEXTS,
    FEATURE_PROCESSES,
    FEATURE_FILES,
    FEATURE_REFRESH,
];

/// Starts a session: checks the token and agrees on version, features and encoding.
///
/// Clients use a virtio port one after the other, so a `hello` may be the first sign of a new one. It therefore ends
/// the operations of the session before.
///
/// # Errors
/// `request_error` for a value that exceeds its limit, `auth_error` for a wrong token.
pub(super) fn hello(
    client: &mut Client,
    hello: &Hello,
    agent: &mut Agent,
) -> Result<(), WireError> {
    let settings = &agent.settings;
    check_length("token", hello.token.as_deref(), &settings.limits)?;
    check_length("nonce", hello.nonce.as_deref(), &settings.limits)?;

    if let Some(token) = &settings.token {
        let given = hello.token.as_deref().unwrap_or("");
        if !constant_time_eq(token.as_bytes(), given.as_bytes()) {
            client.connection.close();
            let message = "the token in `hello` is missing or wrong; the connection is closed";
            return Err(WireError::new(ErrorType::AuthError, message));
        }
    }

    // Features exist from version 1 on; `refresh` only where the agent owns the guest's identity.
    let protocol = hello.protocol.min(PROTOCOL_VERSION);
    let is_requested =
        |name: &str| protocol > 0 && hello.features.iter().any(|feature| feature == name);
    let features: Vec<String> = FEATURES
        .into_iter()
        .filter(|name| is_requested(name))
        .filter(|name| *name != FEATURE_REFRESH || agent.identity.is_some())
        .map(Into::into)
        .collect();

    let encoding = match (protocol, is_requested(FEATURE_RAW_FRAMES)) {
        (0, _) => Encoding::Text,
        (_, false) => Encoding::Exact,
        (_, true) => Encoding::Raw,
    };

    let session = Session {
        authorised: true,
        encoding,
    };
    client.start_session(session, agent);
    let reply = HelloReply {
        op_id: hello.op_id,
        version: VERSION.to_string(),
        protocol,
        features,
        boot_id: agent.settings.boot_id.clone(),
        nonce: hello.nonce.clone(),
    };
    client.connection.outbox.answer(&Response::Hello(reply));

    Ok(())
}

fn check_length(field: &str, value: Option<&str>, limits: &Limits) -> Result<(), WireError> {
    let bytes = value.map_or(0, str::len) as u64;
    if bytes <= limits.token_bytes {
        return Ok(());
    }

    let max = limits.token_bytes;
    let message = format!("field `{field}`: {bytes} bytes exceed the maximum of {max}");
    Err(WireError::new(ErrorType::RequestError, message))
}

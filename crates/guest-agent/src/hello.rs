use fumehood_protocol::{
    ErrorType, FEATURE_CANCEL, FEATURE_CONTEXTS, FEATURE_CREDIT, FEATURE_FILES, FEATURE_PROCESSES,
    FEATURE_RAW_FRAMES, FEATURE_REFRESH, Hello, HelloReply, Limits, PROTOCOL_VERSION, Response,
    WireError, constant_time_eq,
};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::output::Encoding;
use crate::settings::{Settings, VERSION};

const FEATURES: [&str; 7] = [
    FEATURE_RAW_FRAMES,
    FEATURE_CREDIT,
    FEATURE_CANCEL,
    FEATURE_CONTEXTS,
    FEATURE_PROCESSES,
    FEATURE_FILES,
    FEATURE_REFRESH,
];

/// What holds on one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// The client may ask for more than `hello`.
    pub(crate) authorised: bool,
    /// How output is sent.
    pub(crate) encoding: Encoding,
}

impl Session {
    /// A connection that has said nothing yet.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            authorised: settings.token.is_none(),
            encoding: Encoding::Text,
        }
    }
}

/// Agrees on what holds from now on. On a line that clients share one after the other, a `hello`
/// can be the first sign of a new one: operations of the one before are ended.
///
/// # Errors
/// `request_error` for a value past its limit, `auth_error` for a wrong token.
pub(crate) fn hello(
    connection: &mut Connection,
    hello: &Hello,
    agent: &mut Agent,
) -> Result<(), WireError> {
    let settings = &agent.settings;
    check_length("token", hello.token.as_deref(), &settings.limits)?;
    check_length("nonce", hello.nonce.as_deref(), &settings.limits)?;
    if let Some(token) = &settings.token {
        let given = hello.token.as_deref().unwrap_or("");
        if !constant_time_eq(token.as_bytes(), given.as_bytes()) {
            connection.close();
            let message = "the token in `hello` is missing or wrong; the connection is closed";
            return Err(WireError::new(ErrorType::AuthError, message));
        }
    }
    let protocol = hello.protocol.min(PROTOCOL_VERSION);
    let asked = |name: &str| protocol > 0 && hello.features.iter().any(|feature| feature == name);
    let features: Vec<String> = FEATURES
        .into_iter()
        .filter(|name| asked(name))
        .filter(|name| *name != FEATURE_REFRESH || agent.identity.is_some())
        .map(Into::into)
        .collect();
    let encoding = match (protocol, asked(FEATURE_RAW_FRAMES)) {
        (0, _) => Encoding::Text,
        (_, false) => Encoding::Exact,
        (_, true) => Encoding::Raw,
    };
    connection.begin(
        Session {
            authorised: true,
            encoding,
        },
        agent,
    );
    connection.outbox.answer(&Response::Hello(HelloReply {
        op_id: hello.op_id,
        version: VERSION.to_string(),
        protocol,
        features,
        boot_id: agent.settings.boot_id.clone(),
        nonce: hello.nonce.clone(),
    }));
    Ok(())
}

fn check_length(field: &str, value: Option<&str>, limits: &Limits) -> Result<(), WireError> {
    let bytes = value.map_or(0, str::len) as u64;
    if bytes <= limits.token_bytes {
        return Ok(());
    }
    let message = format!(
        "field `{field}`: {bytes} bytes; at most {} are allowed",
        limits.token_bytes
    );
    Err(WireError::new(ErrorType::RequestError, message))
}

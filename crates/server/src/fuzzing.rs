//! Entry points for `fuzz/`: what callers send. Each takes arbitrary bytes, and panics if an invariant is violated.

use serde::de::DeserializeOwned;

use crate::api::requests::{
    DirectoryRequest, ForkRequest, InstallRequest, MoveRequest, NetworkRequest, OneShotRunRequest,
    PortRequest, ProcessRequest, SandboxRequest, SandboxRunRequest, Signal, SignalRequest,
    TimeoutsRequest, UploadRequest, file_content,
};
use crate::error::ApiError;

/// Parses the body of every request of the HTTP API, and converts it for the engine.
pub fn http_body(bytes: &[u8]) {
    if let Some(request) = parse::<OneShotRunRequest>(bytes) {
        check(request.to_run_request());
    }
    if let Some(request) = parse::<SandboxRunRequest>(bytes) {
        let _ = request.to_run_request();
    }
    if let Some(request) = parse::<ProcessRequest>(bytes) {
        let _ = request.to_spawn_request();
    }
    if let Some(request) = parse::<SignalRequest>(bytes) {
        check(signal_number(&request));
    }
    if let Some(upload) = parse::<UploadRequest>(bytes) {
        check(file_content(
            upload.text.as_deref(),
            upload.base64.as_deref(),
        ));
    }

    // These have no conversion of their own, or one that reads the package indexes of this host.
    parse::<SandboxRequest>(bytes);
    parse::<NetworkRequest>(bytes);
    parse::<TimeoutsRequest>(bytes);
    parse::<ForkRequest>(bytes);
    parse::<InstallRequest>(bytes);
    parse::<PortRequest>(bytes);
    parse::<DirectoryRequest>(bytes);
    parse::<MoveRequest>(bytes);
}

fn signal_number(request: &SignalRequest) -> Result<i32, ApiError> {
    let signal: &Signal = &request.signal;
    signal.number()
}

/// Parses the parameters of every tool, and converts them for the engine.
pub fn mcp_params(bytes: &[u8]) {
    crate::mcp::fuzzing::parse_params(bytes);
}

/// Parses a body as the HTTP API does.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut parser).ok()
}

/// Checks that an error has a message, and that it does not repeat a long input.
fn check<T>(result: Result<T, ApiError>) {
    if let Err(error) = result {
        let message = error.message;
        assert!(!message.is_empty() && message.len() < 4096, "{message}");
    }
}

//! Answers of the server, and its failures.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;

use crate::outcome::Failure;

/// Maximum size of an answer or of an event, in bytes: a chunk of output with every byte escaped, and a margin.
pub(super) const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Reads the body of an answer as JSON.
pub(super) async fn read_json(response: Response<Incoming>) -> Option<Value> {
    let bytes = read_body(response).await?;
    serde_json::from_slice(&bytes).ok()
}

/// Reads the body of an answer.
pub(super) async fn read_body(response: Response<Incoming>) -> Option<Bytes> {
    let body = Limited::new(response.into_body(), MAX_EVENT_BYTES);
    Some(body.collect().await.ok()?.to_bytes())
}

/// Returns the failure that the server reports in `error`.
pub(super) fn server_failure(error: &Value) -> Failure {
    let field = |name: &str, default: &str| error[name].as_str().unwrap_or(default).to_owned();
    Failure {
        kind: field("kind", "host"),
        retry: field("retry", "unknown"),
        message: field("message", "the server gave no reason"),
    }
}

/// Returns the failure for a broken connection or an answer that cannot be understood.
pub(super) fn connection_failure(reason: impl std::fmt::Display) -> Failure {
    Failure {
        kind: "lost".into(),
        retry: "unknown".into(),
        message: format!("the connection to the server failed: {reason}"),
    }
}

//! What headers change about the answer to a request.

use axum::http::Method;

use super::{TestServer, request, send, test_server};
use crate::http::Transport;

#[tokio::test]
async fn headers_hide_no_error_of_a_request() {
    let TestServer { service, .. } = test_server();
    let too_large = "/v1/runs/run_no/events?after=9223372036854775808";
    let key = ("idempotency-key", "a");
    for (method, path, header, status) in [
        (Method::GET, too_large, ("last-event-id", "0"), 400),
        // From here on the key belongs to another request.
        (Method::POST, "/v1/runs/run_no/cancel", key, 404),
        (Method::TRACE, "/v1/runs", key, 405),
        (Method::PATCH, "/v1/runs", key, 405),
        (Method::DELETE, "/v1/sandboxes", key, 405),
    ] {
        let sent = request(method, path, &[header], "");
        let (got, body) = send(&service, Transport::UnixSocket, sent).await;
        assert_eq!(got, status, "{path} {body}");
    }
}

//! Pages that the gateway answers with itself. The connection is closed after each of them.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::ResponseBody;
use super::exchange::Exchange;
use crate::refusal::{DENIED_HEADER, Refusal};
use crate::stream::UpstreamError;

/// The page for a refused request: 403.
pub(super) fn denied(refusal: &Refusal, exchange: Arc<Exchange>) -> Response<ResponseBody> {
    exchange.set_refused(refusal.code);
    let mut page = page(StatusCode::FORBIDDEN, refusal.body(), exchange);
    let code = HeaderValue::from_static(refusal.code);
    page.headers_mut().insert(DENIED_HEADER, code);
    page
}

/// The page for a request that the server does not answer: 502, or 504 after a timeout.
pub(super) fn unreachable(
    text: String,
    error: &UpstreamError,
    exchange: Arc<Exchange>,
) -> Response<ResponseBody> {
    let status = match error {
        UpstreamError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        UpstreamError::Failed(_)
        | UpstreamError::Untrusted(_)
        | UpstreamError::Encoded
        | UpstreamError::Partial => StatusCode::BAD_GATEWAY,
    };
    exchange.set_unanswered();
    page(status, text, exchange)
}

fn page(status: StatusCode, text: String, exchange: Arc<Exchange>) -> Response<ResponseBody> {
    exchange.set_status(status.as_u16());
    let mut page = Response::new(ResponseBody::Page(Some(Bytes::from(text)), exchange));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, content_type);
    page
}

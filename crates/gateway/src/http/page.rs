//! Pages that we answer with ourselves. After each of them the connection is closed.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::Down;
use super::exchange::Exchange;
use crate::refusal::{DENIED, Refusal};
use crate::stream::Unreachable;

/// What a refused guest reads.
pub(super) fn denied(refusal: &Refusal, exchange: Arc<Exchange>) -> Response<Down> {
    exchange.refused(refusal.reason);
    let mut page = page(StatusCode::FORBIDDEN, refusal.body(), exchange);
    let reason = HeaderValue::from_static(refusal.reason);
    page.headers_mut().insert(DENIED, reason);
    page
}

/// What a guest reads whose server is not there: 502, or 504 if it was waited for.
pub(super) fn unreachable(
    text: String,
    why: &Unreachable,
    exchange: Arc<Exchange>,
) -> Response<Down> {
    let status = match why {
        Unreachable::Slow(_) => StatusCode::GATEWAY_TIMEOUT,
        Unreachable::Failed(_) | Unreachable::Untrusted(_) => StatusCode::BAD_GATEWAY,
    };
    exchange.lost();
    page(status, text, exchange)
}

fn page(status: StatusCode, text: String, exchange: Arc<Exchange>) -> Response<Down> {
    exchange.status(status.as_u16());
    let mut page = Response::new(Down::Page(Some(Bytes::from(text)), exchange));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, text);
    page
}

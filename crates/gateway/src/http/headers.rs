//! Removes hop-by-hop headers; the others pass.

use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    EXPECT, HOST, HeaderName, HeaderValue, IF_RANGE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    RANGE, SEC_WEBSOCKET_EXTENSIONS, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Headers that are removed whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    // hyper answers it: it sends 100 Continue to the guest when the body is read.
    EXPECT,
];

/// Headers that servers take the method of a request from.
const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Returns the methods that headers put in the place of the request's method.
pub(super) fn method_overrides(headers: &HeaderMap) -> impl Iterator<Item = &HeaderValue> {
    METHOD_OVERRIDES
        .into_iter()
        .flat_map(|name| headers.get_all(name))
}

/// Removes hop-by-hop headers, including those that `Connection` names.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| token.parse().ok())
        // hyper frames the message by it, and has checked it.
        .filter(|name| name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Prepares a request's headers for the server.
pub(super) fn prepare_request(headers: &mut HeaderMap, host: HeaderValue, body: &impl Body) {
    strip(headers);
    headers.insert(HOST, host);
    remove_wrong_length(headers, body);
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // Without this header, hyper would send no body with a GET.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Makes a server answer in a form that can be redacted: uncompressed, and as a whole. A value that comes in parts is not
/// found, and the length of a compressed answer depends on how much of the value the request contained.
pub(super) fn request_plain_text(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
}

/// Removes headers of a response that redaction makes wrong, or that reveal the length of the replaced text.
pub(super) fn prepare_redacted(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.remove(CONTENT_RANGE);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
}

/// Returns whether the answer is compressed or otherwise encoded, so that a value in it cannot be found.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let is_identity = |token: &str| token.eq_ignore_ascii_case("identity");
    let has_unreadable = |name| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| value.to_str().is_err())
    };
    has_unreadable(CONTENT_ENCODING)
        || !tokens(headers, &CONTENT_ENCODING).all(is_identity)
        || headers.contains_key(SEC_WEBSOCKET_EXTENSIONS)
}

/// Prepares a response's headers for the guest. If it is `bodiless`, its length is that of a body that is not sent.
pub(super) fn prepare_response(headers: &mut HeaderMap, body: &impl Body, bodiless: bool) {
    let is_last = has_connection_close(headers);
    strip(headers);
    if !bodiless {
        remove_wrong_length(headers, body);
    }
    if is_last {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Removes a length that the body does not have.
fn remove_wrong_length(headers: &mut HeaderMap, body: &impl Body) {
    if body.size_hint().exact().is_none() {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Returns whether `Connection` says that this message is the last.
fn has_connection_close(headers: &HeaderMap) -> bool {
    tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("close"))
}

/// Returns the tokens of a header that is a list.
pub(super) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &'a HeaderName,
) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

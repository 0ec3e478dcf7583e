//! Removes hop-by-hop headers; the others pass.

use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
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

/// Makes a server answer in a form that can be redacted: uncompressed.
pub(super) fn request_plain_text(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.remove("sec-websocket-extensions");
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

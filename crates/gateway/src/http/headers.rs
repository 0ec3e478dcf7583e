//! Headers that are between two neighbours end here; the others pass.

use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Headers that end here, whether `Connection` names them or not.
const NEIGHBOURS: [HeaderName; 11] = [
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
    // Answered here: what asks for the body says so to the guest.
    EXPECT,
];

/// Takes away what is between neighbours.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| token.parse().ok())
        // It frames the message for hyper, which has checked it.
        .filter(|name| name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&NEIGHBOURS) {
        headers.remove(name);
    }
}

/// Readies a request's headers for a server.
pub(super) fn request(headers: &mut HeaderMap, host: HeaderValue, body: &impl Body) {
    strip(headers);
    headers.insert(HOST, host);
    frame(headers, body);
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // Said here, since hyper would send no body with a GET.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Has a server answer and speak in a way that can be read here.
pub(super) fn legible(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.remove("sec-websocket-extensions");
}

/// Readies a response's headers for the guest. `bodiless`: its length is that of a body that is not sent.
pub(super) fn response(headers: &mut HeaderMap, body: &impl Body, bodiless: bool) {
    let last = closes(headers);
    strip(headers);
    if !bodiless {
        frame(headers, body);
    }
    if last {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Leaves no length but the one that the body has.
fn frame(headers: &mut HeaderMap, body: &impl Body) {
    if body.size_hint().exact().is_none() {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Whether `Connection` says that this message is the last.
fn closes(headers: &HeaderMap) -> bool {
    tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("close"))
}

/// The tokens of a header that is a list.
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

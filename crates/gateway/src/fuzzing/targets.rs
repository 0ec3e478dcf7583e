//! The entry points.

use super::runtime::wait_for;
use super::{documents, hello_bytes, names, play, requests};

/// Plays a script of packets to a whole gateway.
pub fn frames(bytes: &[u8]) {
    wait_for(play::play(bytes));
}

/// Compares how the gateway and rustls read the first bytes of a connection.
pub fn client_hello(bytes: &[u8]) {
    hello_bytes::read(bytes);
}

/// Sends queries to the name server.
pub fn dns(bytes: &[u8]) {
    names::ask(bytes);
}

/// Sends bytes from a guest and a server to the HTTP proxy.
pub fn http_head(bytes: &[u8]) {
    requests::pass(bytes);
}

/// Parses a policy document, as TOML and as JSON.
pub fn policy_document(bytes: &[u8]) {
    documents::read(bytes);
}

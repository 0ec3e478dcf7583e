use super::runtime::wait_for;
use super::{documents, hello_bytes, names, play, requests};

/// A guest that plays a script of packets to a whole gateway.
pub fn frames(bytes: &[u8]) {
    wait_for(play::play(bytes));
}

/// The first bytes of a connection, as the gateway and as rustls read them.
pub fn client_hello(bytes: &[u8]) {
    hello_bytes::read(bytes);
}

/// Questions to the name server.
pub fn dns(bytes: &[u8]) {
    names::ask(bytes);
}

/// What a guest and a server say to the proxy for HTTP.
pub fn http_head(bytes: &[u8]) {
    requests::pass(bytes);
}

/// A policy's document, in both of its forms.
pub fn policy_document(bytes: &[u8]) {
    documents::read(bytes);
}

//! One connection of the guest, from its first packet to its end.
//!
//! A connection is decided on when the guest opens it, and again when its first bytes show the protocol. Then its
//! bytes are forwarded, or its requests go through the proxy in `http`. The TCP/IP stack is in `stack`; how a task is
//! started for each connection is in `gateway`.

mod connection;
mod context;
mod first_bytes;
mod lazy_trust;
mod name_server;
mod proxied_requests;
mod refuse;
mod relay;

pub(crate) use context::ConnectionContext;
pub(crate) use relay::relay_streams;

//! The line to the host: accepts clients, decodes their requests and sends answers.
//!
//! This folder moves bytes. Which request does what, and who owns which operation, is decided in
//! `requests`.

mod client_id;
mod connection;
mod incoming;
mod listener;
mod outbox;
mod session;

pub(crate) use client_id::ClientId;
pub(crate) use connection::Connection;
pub(crate) use incoming::IncomingRequest;
pub(crate) use listener::{Listener, VirtioPort};
pub(crate) use outbox::{Outbox, error_response};
pub(crate) use session::{Encoding, Session};

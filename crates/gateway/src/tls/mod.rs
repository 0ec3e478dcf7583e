//! TLS: reading a client's first message, terminating TLS in a host's name, and TLS with servers.
//!
//! The guest speaks TLS with the gateway under its sandbox's own certificate authority; the gateway speaks TLS with the
//! server under the authorities that this host trusts. HTTP inside does not belong here.

mod terminate;
mod authority;
mod trust;
mod parameters;
mod client_hello;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use authority::{Authority, AuthorityError};
pub(crate) use client_hello::{SNIFF_BYTES, SniffResult, dns_name, sniff};
pub(crate) use terminate::terminate;
pub(crate) use trust::Trust;

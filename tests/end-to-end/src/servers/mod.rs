//! Servers that live in a test's network namespace: those that a guest may reach, and those that nobody may.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod misbehaving;
mod canaries;
mod name_server;
mod tls;
mod web;

pub use canaries::Canaries;
pub use misbehaving::MisbehavingServer;
pub use name_server::{DnsAnswer, NameServer};
pub(crate) use tls::AUTHORITY;
pub use tls::CertificateAuthority;
pub use web::{WebServer, echo};

use std::net::SocketAddr;

/// A web server's address.
pub const WEB4: &str = "203.0.113.10";
/// The same server's, of IPv6.
pub const WEB6: &str = "2001:db8::10";
/// Another server's.
pub const OTHER: &str = "203.0.113.11";
/// The name server's.
pub const NAMES: &str = "203.0.113.53";
/// That of a server which answers nobody, since its queue is full.
pub const FULL: &str = "203.0.113.99";

/// An address and a port.
///
/// # Panics
/// When the text is no address.
#[must_use]
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

//! Servers in a test's network namespace: those that a guest may reach, and canaries that nothing may reach.
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

/// The web server's IPv4 address.
pub const WEB4: &str = "203.0.113.10";
/// The web server's IPv6 address.
pub const WEB6: &str = "2001:db8::10";
/// The address of another server.
pub const OTHER: &str = "203.0.113.11";
/// The name server's address.
pub const NAMES: &str = "203.0.113.53";
/// The address of a server that accepts no connections, since its queue is full.
pub const FULL: &str = "203.0.113.99";

/// Returns a socket address.
///
/// # Panics
/// Panics if the text is not an IP address.
#[must_use]
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

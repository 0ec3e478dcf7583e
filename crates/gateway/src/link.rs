//! The addresses on the link between a guest and its gateway.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The addresses of both ends of the link between a guest and its gateway. The gateway checks every frame against them.
///
/// All guests may have the same addresses, because each link is separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddresses {
    /// The guest's end.
    pub guest: Endpoint,
    /// The gateway's end, which is the guest's router and name server.
    pub gateway: Endpoint,
    /// Maximum length of an IP packet, in bytes.
    pub mtu: usize,
}

/// One end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The hardware address.
    pub mac: [u8; 6],
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Endpoint {
    /// Returns whether `address` is one of its addresses.
    pub(crate) fn has(&self, address: std::net::IpAddr) -> bool {
        match address {
            std::net::IpAddr::V4(v4) => v4 == self.v4,
            std::net::IpAddr::V6(v6) => v6 == self.v6,
        }
    }
}

use std::net::{Ipv4Addr, Ipv6Addr};

/// Who is who on the wire between a guest and its gateway: the two ends of one cable, which the gateway
/// checks every frame against. All guests may have the same ones: each cable is a world of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddresses {
    /// The guest's end.
    pub guest: Endpoint,
    /// The gateway's end: the guest's router and name server.
    pub gateway: Endpoint,
    /// The longest IP packet, in bytes.
    pub mtu: usize,
}

/// One end of the cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Endpoint {
    pub(crate) fn has(&self, address: std::net::IpAddr) -> bool {
        match address {
            std::net::IpAddr::V4(v4) => v4 == self.v4,
            std::net::IpAddr::V6(v6) => v6 == self.v6,
        }
    }
}

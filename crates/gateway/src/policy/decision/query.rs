use std::net::IpAddr;

use crate::value::{Host, HostName};

/// What is asked of a policy. `names` are always those that the guest was told to resolve to the address,
/// and whose time is not over.
#[derive(Debug, Clone, Copy)]
pub enum Question<'a> {
    /// May the guest resolve this name?
    Lookup {
        /// The name.
        name: &'a HostName,
    },
    /// May the guest be told that the name has this address?
    Resolved {
        /// The name.
        name: &'a HostName,
        /// One of the addresses that it resolved to.
        address: IpAddr,
    },
    /// May the guest open a connection?
    Connect {
        /// Where to.
        address: IpAddr,
        /// Where to.
        port: u16,
        /// Names of the address.
        names: &'a [HostName],
    },
    /// The guest's first bytes on a connection have come, or none in time: may they go on?
    Speak {
        /// Where to.
        address: IpAddr,
        /// Where to.
        port: u16,
        /// Names of the address.
        names: &'a [HostName],
        /// What the first bytes are.
        said: Said<'a>,
    },
    /// May this request of HTTP go on? Asked for each one that is seen.
    Request {
        /// Where to.
        address: IpAddr,
        /// Where to.
        port: u16,
        /// Names of the address.
        names: &'a [HostName],
        /// The name that TLS was terminated for; none: plain HTTP.
        tls: Option<&'a HostName>,
        /// The host that the request is for.
        host: &'a Host,
        /// The port that the request is for, where it says one.
        host_port: Option<u16>,
        /// The method, as it was sent.
        method: &'a str,
    },
    /// A datagram that is no question to the gateway's DNS.
    Datagram {
        /// Where to.
        address: IpAddr,
        /// Where to.
        port: u16,
    },
    /// A packet that is neither TCP nor UDP.
    Other {
        /// The protocol's number in the IP header.
        protocol: u8,
        /// Where to.
        address: IpAddr,
    },
}

/// What a guest's first bytes on a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// The beginning of TLS.
    Tls {
        /// The name that it says it is for (SNI).
        server_name: Option<&'a HostName>,
        /// It has an encrypted part that may name another (ECH), or pretends to.
        encrypted: bool,
    },
    /// A request of HTTP.
    Http,
    /// Something else.
    Other,
    /// Nothing: the server is expected to begin.
    Nothing,
}

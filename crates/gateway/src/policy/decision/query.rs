//! The queries that a policy answers.

use std::net::IpAddr;

use crate::value::{Host, HostName};

/// A query to a policy. `names` are always the names that the guest received this address for and that have not expired.
#[derive(Debug, Clone, Copy)]
pub enum PolicyQuery<'a> {
    /// May the guest resolve this name?
    Lookup {
        /// The name.
        name: &'a HostName,
    },
    /// May the guest receive this address for the name?
    Resolved {
        /// The name.
        name: &'a HostName,
        /// One of the addresses that it resolved to.
        address: IpAddr,
    },
    /// May the guest open a connection?
    Connect {
        /// The destination's address.
        address: IpAddr,
        /// The destination's port.
        port: u16,
        /// The names of the address.
        names: &'a [HostName],
    },
    /// May a connection continue whose first bytes have arrived, or have not arrived in time?
    FirstBytes {
        /// The destination's address.
        address: IpAddr,
        /// The destination's port.
        port: u16,
        /// The names of the address.
        names: &'a [HostName],
        /// The protocol that the first bytes show.
        protocol: ClientProtocol<'a>,
    },
    /// May this HTTP request be forwarded? This is asked for each request that the gateway reads.
    Request {
        /// The destination's address.
        address: IpAddr,
        /// The destination's port.
        port: u16,
        /// The names of the address.
        names: &'a [HostName],
        /// The name that TLS was terminated for; `None` for plain HTTP.
        tls: Option<&'a HostName>,
        /// The host that the request names.
        host: &'a Host,
        /// The port that the request names, if it does.
        host_port: Option<u16>,
        /// The method, as it was sent.
        method: &'a str,
        /// Whether the request asks for an upgrade of the connection, after which no request can be read.
        upgrades: bool,
    },
    /// May the guest send this datagram, which is not a query to the gateway's name server?
    Datagram {
        /// The destination's address.
        address: IpAddr,
        /// The destination's port.
        port: u16,
    },
    /// May the guest send this packet, which is neither TCP nor UDP?
    OtherProtocol {
        /// The protocol's number in the IP header.
        protocol: u8,
        /// The destination's address.
        address: IpAddr,
    },
}

/// The protocol that a connection's first bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientProtocol<'a> {
    /// TLS.
    Tls {
        /// The server name (SNI), if there is one.
        server_name: Option<&'a HostName>,
        /// An encrypted part may contain another name (ECH), or the client pretends that there is one.
        encrypted: bool,
    },
    /// HTTP.
    Http,
    /// Another protocol.
    Other,
    /// The client sent nothing: it expects the server to speak first.
    Silent,
}

//! The identity of a connection.

use std::net::SocketAddr;

/// Both ends of a connection, as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FourTuple {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

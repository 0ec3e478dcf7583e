//! The configuration of a gateway.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::link::LinkAddresses;
use crate::metering::ConnectionBudget;
use crate::policy::Policy;
use crate::secret::Vault;
use crate::stack::FourTuple;

/// The configuration of a gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The addresses on the link to the guest.
    pub link: LinkAddresses,
    /// The policy, which says which hosts the guest may reach.
    pub policy: Arc<Policy>,
    /// The secrets and keys that the gateway holds and the guest does not.
    pub vault: Vault,
    /// The name servers to use; if empty, those of this host.
    pub name_servers: Vec<SocketAddr>,
    /// The connections of this guest and others together. The policy limits those of this guest.
    pub connections: ConnectionBudget,
    /// Connections that the guest considers open because it had them when its state was saved.
    pub stale: Connections,
}

/// The connections of a guest at one moment.
#[derive(Debug, Clone, Default)]
pub struct Connections(pub(super) Vec<FourTuple>);

impl Connections {
    /// Returns how many of them the host with this address has opened or accepted.
    #[must_use]
    pub fn with_remote(&self, remote: IpAddr) -> usize {
        let of_remote = self.0.iter().filter(|tuple| tuple.remote.ip() == remote);
        of_remote.count()
    }

    /// Returns the union of these connections and `other`.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        let missing = other.0.into_iter().filter(|tuple| !self.0.contains(tuple));
        let missing: Vec<FourTuple> = missing.collect();
        self.0.extend(missing);
        self
    }

    /// Returns both ends of each connection, first the guest's: for a state that is written to disk.
    #[must_use]
    pub fn endpoints(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let ends = self.0.iter().map(|tuple| (tuple.guest, tuple.remote));
        ends.collect()
    }

    /// Takes the connections of a state that was written to disk. A gateway sends one packet for each.
    #[must_use]
    pub fn from_endpoints(ends: impl IntoIterator<Item = (SocketAddr, SocketAddr)>) -> Self {
        let tuples = ends.into_iter().take(MAX_RESTORED);
        Self(
            tuples
                .map(|(guest, remote)| FourTuple { guest, remote })
                .collect(),
        )
    }
}

/// Maximum number of connections that are taken from a file: more than a guest can have.
const MAX_RESTORED: usize = 65_536;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::link::LinkAddresses;
use crate::policy::Policy;
use crate::secret::Vault;
use crate::stack::Tuple;

/// What a gateway is to be like.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The wire to the guest.
    pub link: LinkAddresses,
    /// What the guest may reach.
    pub policy: Arc<Policy>,
    /// What the gateway knows and the guest does not.
    pub vault: Vault,
    /// Name servers to ask; none: this host's own.
    pub name_servers: Vec<SocketAddr>,
    /// Connections that the guest believes to be open, since it had them when its state was saved.
    pub stale: Connections,
}

/// The connections of a guest at one moment.
#[derive(Debug, Clone, Default)]
pub struct Connections(pub(super) Vec<Tuple>);

impl Connections {
    /// These, and those of another moment.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        let missing = other.0.into_iter().filter(|tuple| !self.0.contains(tuple));
        let missing: Vec<Tuple> = missing.collect();
        self.0.extend(missing);
        self
    }
}

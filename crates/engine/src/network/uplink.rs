use std::sync::{Mutex, MutexGuard, PoisonError};

use fumehood_gateway::{
    Connections, Endpoint, Event as NetworkEvent, Gateway, GatewayConfig, LinkAddresses,
};
use fumehood_protocol::network;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::config::{ExposedPort, MAX_EXPOSED_PORTS, NetworkConfig, PortMapping, PreparedNetwork};
use super::outcome::NetworkOutcome;
use crate::error::{Error, ErrorKind};

/// The other end of a VM's network card. Dropping it closes all connections of the guest.
#[derive(Debug)]
pub(crate) enum Uplink {
    /// Not connected. If the cable is not read it fills up, and only the guest's card waits.
    #[cfg_attr(
        not(feature = "testing"),
        expect(dead_code, reason = "held open; only tests take it")
    )]
    Cable(Mutex<Option<UnixStream>>),
    Gateway(Box<ActiveNetwork>),
}

/// A network in use.
#[derive(Debug)]
pub(crate) struct ActiveNetwork {
    gateway: Mutex<Gateway>,
    urls: Mutex<Vec<String>>,
    config: NetworkConfig,
}

/// A network at the time when a state was saved.
#[derive(Debug, Clone)]
pub(crate) struct SavedNetwork {
    config: NetworkConfig,
    connections: Connections,
}

impl SavedNetwork {
    /// Adds the connections of another moment.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            connections: self.connections.with(other.connections),
            ..self
        }
    }

    /// Takes the network that was prepared for guests of a state on disk.
    pub(crate) fn of_prepared(prepared: PreparedNetwork) -> Self {
        Self {
            config: prepared.config,
            connections: prepared.stale,
        }
    }

    /// Returns the connections.
    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Returns the names of the secrets with the guest's placeholders.
    pub(crate) fn placeholders(&self) -> &[(String, String)] {
        self.config.vault.environment()
    }

    /// Prepares a network for a guest that is restored from the state. Ports of this host are not shared.
    pub(crate) fn prepare(&self) -> PreparedNetwork {
        PreparedNetwork {
            config: self.config.clone(),
            exposed: Vec::new(),
            stale: self.connections.clone(),
        }
    }
}

/// The addresses at both ends of every guest's cable.
const LINK: LinkAddresses = LinkAddresses {
    guest: Endpoint {
        mac: network::GUEST_MAC,
        v4: network::GUEST_IPV4,
        v6: network::GUEST_IPV6,
    },
    gateway: Endpoint {
        mac: network::GATEWAY_MAC,
        v4: network::GATEWAY_IPV4,
        v6: network::GATEWAY_IPV6,
    },
    mtu: network::MTU as usize,
};

impl Uplink {
    /// Connects a network card to a gateway, or to nothing if there is no network.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if the gateway cannot be started.
    pub(crate) fn connect(
        cable: UnixStream,
        network: Option<PreparedNetwork>,
    ) -> Result<Self, Error> {
        let Some(network) = network else {
            return Ok(Self::Cable(Mutex::new(Some(cable))));
        };

        let PreparedNetwork {
            config,
            exposed,
            stale,
        } = network;

        // Start the gateway at the other end of the cable.
        let gateway_config = GatewayConfig {
            link: LINK,
            policy: config.policy.clone(),
            vault: config.vault.clone(),
            name_servers: config.name_servers.clone(),
            connections: config.connections.clone(),
            stale,
        };

        let gateway = Gateway::start(cable, gateway_config)
            .map_err(|e| Error::new(ErrorKind::Host, e.to_string()).caused_by(e))?;
        let active = ActiveNetwork {
            gateway: Mutex::new(gateway),
            urls: Mutex::default(),
            config,
        };

        for port in exposed {
            active.expose(port);
        }

        Ok(Self::Gateway(Box::new(active)))
    }

    /// Returns the cable, once, for a test that reads it.
    #[cfg(feature = "testing")]
    pub(crate) fn take_cable(&self) -> Option<UnixStream> {
        match self {
            Self::Cable(cable) => cable.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Self::Gateway(_) => None,
        }
    }

    pub(crate) fn active(&self) -> Option<&ActiveNetwork> {
        match self {
            Self::Cable(_) => None,
            Self::Gateway(active) => Some(active),
        }
    }
}

impl ActiveNetwork {
    fn gateway(&self) -> MutexGuard<'_, Gateway> {
        self.gateway.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expose(&self, port: ExposedPort) -> String {
        let url = port.url();
        self.gateway().expose(port.listener, port.guest);
        let mut urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        urls.push(url.clone());
        url
    }

    /// Exposes another port of the guest; returns its URL.
    ///
    /// # Errors
    /// As [`PortMapping::bind`], and [`ErrorKind::Invalid`] if too many ports are exposed.
    pub(crate) fn expose_another(&self, mapping: PortMapping) -> Result<String, Error> {
        if self.urls().len() >= MAX_EXPOSED_PORTS {
            let message =
                format!("this sandbox exposes {MAX_EXPOSED_PORTS} ports already, the maximum");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(self.expose(mapping.bind()?))
    }

    /// Returns a receiver of all events from now on.
    pub(crate) fn events(&self) -> mpsc::Receiver<NetworkEvent> {
        self.gateway().events()
    }

    /// Returns a summary of the guest's network use until now.
    pub(crate) fn outcome(&self) -> NetworkOutcome {
        NetworkOutcome {
            urls: self.urls(),
            summary: self.gateway().summary(),
        }
    }

    /// Returns the URLs of the exposed ports.
    pub(crate) fn urls(&self) -> Vec<String> {
        let urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        urls.clone()
    }

    /// Returns how many connections to exposed ports are open: the guest sees them as the gateway's.
    pub(crate) fn inbound_connections(&self) -> usize {
        let connections = self.gateway().connections();
        connections.with_remote(LINK.gateway.v4.into())
            + connections.with_remote(LINK.gateway.v6.into())
    }

    /// Saves the network as it is now.
    pub(crate) fn save(&self) -> SavedNetwork {
        SavedNetwork {
            config: self.config.clone(),
            connections: self.gateway().connections(),
        }
    }
}

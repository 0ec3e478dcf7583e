use std::sync::{Mutex, PoisonError};

use fumehood_gateway::{
    Connections, Endpoint, Event as NetworkEvent, Gateway, GatewayConfig, LinkAddresses, Summary,
};
use fumehood_protocol::network;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::config::{EXPOSED, Exposed, Kept, PortMapping, Prepared};
use super::outcome::NetworkOutcome;
use crate::error::{Error, ErrorKind};

/// What a VM's network card is connected to. Dropping it ends all of the guest's connections.
#[derive(Debug)]
pub(crate) enum Uplink {
    /// Nobody yet. Unread, a cable fills, and the guest's card waits: nothing else does.
    Cable(Mutex<Option<UnixStream>>),
    Gateway(Box<Served>),
}

/// A network in use.
#[derive(Debug)]
pub(crate) struct Served {
    gateway: Mutex<Gateway>,
    urls: Mutex<Vec<String>>,
    kept: Kept,
}

/// A network as it was when a state was saved.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    kept: Kept,
    connections: Connections,
}

impl Saved {
    /// This, with connections of another moment.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            connections: self.connections.with(other.connections),
            ..self
        }
    }

    /// A network for a guest that goes on from that state. Ports of this host are not shared.
    pub(crate) fn prepare(&self) -> Prepared {
        Prepared {
            kept: self.kept.clone(),
            exposed: Vec::new(),
            stale: self.connections.clone(),
        }
    }
}

/// Both ends of every guest's cable.
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
    /// Connects a card.
    ///
    /// # Errors
    /// [`ErrorKind::Host`].
    pub(crate) fn begin(cable: UnixStream, prepared: Option<Prepared>) -> Result<Self, Error> {
        let Some(prepared) = prepared else {
            return Ok(Self::Cable(Mutex::new(Some(cable))));
        };
        let Prepared {
            kept,
            exposed,
            stale,
        } = prepared;
        let setup = GatewayConfig {
            link: LINK,
            policy: kept.policy.clone(),
            vault: kept.vault.clone(),
            name_servers: kept.name_servers.clone(),
            stale,
        };
        let gateway = Gateway::start(cable, setup)
            .map_err(|e| Error::new(ErrorKind::Host, e.to_string()).caused_by(e))?;
        let served = Served {
            gateway: Mutex::new(gateway),
            urls: Mutex::default(),
            kept,
        };
        for one in exposed {
            served.expose(one);
        }
        Ok(Self::Gateway(Box::new(served)))
    }

    /// The cable, once, for a test that is the other end itself.
    pub(crate) fn take(&self) -> Option<UnixStream> {
        match self {
            Self::Cable(cable) => cable.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Self::Gateway(_) => None,
        }
    }

    pub(crate) fn served(&self) -> Option<&Served> {
        match self {
            Self::Cable(_) => None,
            Self::Gateway(served) => Some(served),
        }
    }
}

impl Served {
    fn gateway(&self) -> std::sync::MutexGuard<'_, Gateway> {
        self.gateway.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expose(&self, exposed: Exposed) -> String {
        let url = exposed.url();
        self.gateway().expose(exposed.listener, exposed.guest);
        let mut urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        urls.push(url.clone());
        url
    }

    /// Exposes one more port of the guest; returns how it is reached.
    ///
    /// # Errors
    /// As [`PortMapping::bind`], and [`ErrorKind::Invalid`] for too many.
    pub(crate) fn expose_also(&self, expose: PortMapping) -> Result<String, Error> {
        if self.urls().len() >= EXPOSED {
            let message =
                format!("{EXPOSED} ports of this sandbox are exposed, the most that are allowed");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(self.expose(expose.bind()?))
    }

    /// All that the guest does on its network from now on.
    pub(crate) fn events(&self) -> mpsc::Receiver<NetworkEvent> {
        self.gateway().events()
    }

    pub(crate) fn summary(&self) -> Summary {
        self.gateway().summary()
    }

    pub(crate) fn outcome(&self) -> NetworkOutcome {
        NetworkOutcome {
            urls: self.urls(),
            summary: self.summary(),
        }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        let urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        urls.clone()
    }

    /// As it is at this moment.
    pub(crate) fn save(&self) -> Saved {
        Saved {
            kept: self.kept.clone(),
            connections: self.gateway().connections(),
        }
    }
}

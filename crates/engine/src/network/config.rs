use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use fumehood_gateway::policy::{Policy, SecretName};
use fumehood_gateway::{ConnectionBudget, Connections, SecretValue, Vault};
use fumehood_protocol::EnvVars;
use tokio::net::TcpListener;

use crate::agent::GuestInit;
use crate::error::{Error, ErrorKind};

/// The network of a guest: the policy for outbound connections, secrets that the gateway inserts into requests, and
/// ports that are exposed on this host. A VM without a network has no network device.
///
/// ```
/// use fumehood_engine::policy::{Document, RuleSpec};
/// use fumehood_engine::{Network, RunRequest, Language};
///
/// let document = Document {
///     allow: vec![RuleSpec::parse_word("*.example.com")?],
///     ..Document::default()
/// };
/// let network = Network::new(document.policy("mine")?).expose("8080:3000".parse()?);
/// let request = RunRequest::new(Language::Python, "…").network(network);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Network {
    policy: Arc<Policy>,
    secrets: BTreeMap<SecretName, SecretValue>,
    exposed: Vec<PortMapping>,
    name_servers: Vec<SocketAddr>,
    connections: ConnectionBudget,
}

/// Maximum number of exposed ports of a guest: each is a listener on this host.
pub(crate) const MAX_EXPOSED_PORTS: usize = 64;

impl Network {
    /// Creates a network with this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy: Arc::new(policy),
            secrets: BTreeMap::new(),
            exposed: Vec::new(),
            name_servers: Vec::new(),
            connections: ConnectionBudget::default(),
        }
    }

    /// Gives the gateway the value of one of the policy's secrets. The guest gets a placeholder in an environment
    /// variable of that name.
    #[must_use]
    pub fn secret(mut self, name: SecretName, value: SecretValue) -> Self {
        self.secrets.insert(name, value);
        self
    }

    /// Exposes a port of the guest on this host's loopback interface. This does not allow outbound connections.
    #[must_use]
    pub fn expose(mut self, mapping: PortMapping) -> Self {
        self.exposed.push(mapping);
        self
    }

    /// Uses these name servers instead of this host's own.
    #[must_use]
    pub fn name_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.name_servers.extend(servers);
        self
    }

    /// Counts the guest's connections in a budget that it shares with other guests; by default only the policy limits them.
    #[must_use]
    pub fn connection_budget(mut self, budget: ConnectionBudget) -> Self {
        self.connections = budget;
        self
    }

    /// Prepares a gateway's configuration, and binds the exposed ports.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] for a secret without value, a value without secret, or a port that is in use.
    pub(crate) fn prepare(&self) -> Result<PreparedNetwork, Error> {
        let vault = Vault::new(&self.policy, self.secrets.clone()).map_err(|e| invalid(&e))?;
        self.prepare_with(vault, Connections::default())
    }

    /// As [`prepare`](Self::prepare), for a guest that was resumed: it has these placeholders, and considers these
    /// connections open. A secret may be without value.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] for a value without secret, or a port that is in use.
    pub(crate) fn prepare_resumed(
        &self,
        placeholders: &BTreeMap<String, String>,
        stale: Connections,
    ) -> Result<PreparedNetwork, Error> {
        let vault = Vault::restore(&self.policy, self.secrets.clone(), placeholders);
        self.prepare_with(vault.map_err(|e| invalid(&e))?, stale)
    }

    fn prepare_with(&self, vault: Vault, stale: Connections) -> Result<PreparedNetwork, Error> {
        let count = self.exposed.len();
        if count > MAX_EXPOSED_PORTS {
            let message = format!("{count} exposed ports; at most {MAX_EXPOSED_PORTS} are allowed");
            return Err(invalid(&message));
        }

        // Bind now: a port in use is reported before a VM starts.
        let exposed = self.exposed.iter().map(|mapping| mapping.bind());

        Ok(PreparedNetwork {
            exposed: exposed.collect::<Result<_, _>>()?,
            config: NetworkConfig {
                policy: self.policy.clone(),
                vault,
                name_servers: self.name_servers.clone(),
                connections: self.connections.clone(),
            },
            stale,
        })
    }
}

fn invalid(error: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, error.to_string())
}

/// The part of a network that guests restored from its saved state share.
#[derive(Debug, Clone)]
pub(crate) struct NetworkConfig {
    pub(crate) policy: Arc<Policy>,
    pub(crate) vault: Vault,
    pub(crate) name_servers: Vec<SocketAddr>,
    pub(crate) connections: ConnectionBudget,
}

/// A network that is ready for its guest.
#[derive(Debug)]
pub(crate) struct PreparedNetwork {
    pub(crate) config: NetworkConfig,
    pub(crate) exposed: Vec<ExposedPort>,
    /// Connections that the guest still considers open.
    pub(crate) stale: Connections,
}

impl PreparedNetwork {
    /// Returns the settings that the guest needs for it.
    pub(crate) fn init(&self) -> GuestInit {
        let vault = &self.config.vault;
        let variables = vault.environment();
        let environment: EnvVars = variables.iter().cloned().collect();
        GuestInit {
            certificates: vault.certificate(),
            environment: (!variables.is_empty()).then_some(environment),
            identity: None,
        }
    }
}

/// A port of this host's loopback interface that is forwarded to one of the guest: `8080`, or `8080:3000`. Port 0 of
/// the host stands for any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// The port of this host; 0 = any free port.
    pub host: u16,
    /// The port of the guest.
    pub guest: NonZeroU16,
}

impl FromStr for PortMapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (host, guest) = text.split_once(':').unwrap_or((text, text));
        if let (Ok(host), Ok(guest)) = (host.parse(), guest.parse()) {
            return Ok(Self { host, guest });
        }

        let message = format!(
            "invalid port mapping `{text}`; write the ports of host and guest, as in 8080:3000, or one for both; \
             0 on the host is any free port"
        );

        Err(Error::new(ErrorKind::Invalid, message))
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

impl PortMapping {
    /// Binds the port of the host.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if it is in use, or not permitted.
    pub(crate) fn bind(self) -> Result<ExposedPort, Error> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.host));
        let bound = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, address))
        });

        let (listener, address) = bound.map_err(|e| {
            let message = format!(
                "cannot expose port {} of this host: {e}; choose another one, or 0 for any free port",
                self.host
            );
            Error::new(ErrorKind::Invalid, message).caused_by(e)
        })?;

        Ok(ExposedPort {
            listener,
            address,
            guest: self.guest.get(),
        })
    }
}

/// A bound port of this host.
#[derive(Debug)]
pub(crate) struct ExposedPort {
    pub(crate) listener: TcpListener,
    address: SocketAddr,
    pub(crate) guest: u16,
}

impl ExposedPort {
    /// Returns the URL of the port.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_ports() {
        let pair = |text: &str| {
            text.parse::<PortMapping>()
                .map(|pair| pair.to_string())
                .ok()
        };
        assert_eq!(pair("8080").as_deref(), Some("8080:8080"));
        assert_eq!(pair("8080:3000").as_deref(), Some("8080:3000"));
        assert_eq!(pair("0:3000").as_deref(), Some("0:3000"));

        for wrong in ["", "0", "8080:0", "80:80:80", "65536", "-1", "http"] {
            assert_eq!(pair(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_in_use_is_named() {
        let first = "0:3000".parse::<PortMapping>().unwrap().bind().unwrap();
        let again = PortMapping {
            host: first.address.port(),
            guest: NonZeroU16::MIN,
        };

        let error = again.bind().unwrap_err();
        let port = first.address.port().to_string();
        assert!(error.to_string().contains(&port), "{error}");
    }
}

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use fumehood_gateway::policy::{Policy, SecretName};
use fumehood_gateway::{Connections, SecretValue, Vault};
use fumehood_protocol::EnvVars;
use tokio::net::TcpListener;

use crate::agent::Brought;
use crate::error::{Error, ErrorKind};

/// A guest's network: what it may reach by a policy, what the gateway puts into its requests, and which of its
/// ports are reached from this host. Without one a VM has no network device at all.
///
/// ```
/// use fumehood_engine::policy::{Document, Entry};
/// use fumehood_engine::{Network, RunRequest, Language};
///
/// let document = Document {
///     allow: vec![Entry::parse_word("*.example.com")?],
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
}

/// Ports of a guest that may be exposed at a time: each is a listener on this host.
pub(crate) const EXPOSED: usize = 64;

impl Network {
    /// A network with this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy: Arc::new(policy),
            secrets: BTreeMap::new(),
            exposed: Vec::new(),
            name_servers: Vec::new(),
        }
    }

    /// Gives the gateway the value of one of the policy's secrets; the guest gets a placeholder in a variable
    /// of that name.
    #[must_use]
    pub fn secret(mut self, name: SecretName, value: SecretValue) -> Self {
        self.secrets.insert(name, value);
        self
    }

    /// Passes connections to a port of this host's loopback interface on to a port of the guest. No outbound
    /// right goes with it.
    #[must_use]
    pub fn expose(mut self, expose: PortMapping) -> Self {
        self.exposed.push(expose);
        self
    }

    /// Looks up names by these servers instead of this host's own.
    #[must_use]
    pub fn name_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.name_servers.extend(servers);
        self
    }

    /// All that a gateway needs; ports are this sandbox's from now on.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: a secret without value or the reverse, a port that is in use.
    pub(crate) fn prepare(&self) -> Result<Prepared, Error> {
        let invalid = |e: &dyn fmt::Display| Error::new(ErrorKind::Invalid, e.to_string());
        let vault = Vault::new(&self.policy, self.secrets.clone()).map_err(|e| invalid(&e))?;
        if self.exposed.len() > EXPOSED {
            let given = self.exposed.len();
            return Err(invalid(&format!(
                "{given} exposed ports; {EXPOSED} are allowed"
            )));
        }
        let exposed = self.exposed.iter().map(|expose| expose.bind());
        Ok(Prepared {
            exposed: exposed.collect::<Result<_, _>>()?,
            kept: Kept {
                policy: self.policy.clone(),
                vault,
                name_servers: self.name_servers.clone(),
            },
            stale: Connections::default(),
        })
    }
}

/// What a network is, and what those that begin from a saved state have in common.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) policy: Arc<Policy>,
    pub(crate) vault: Vault,
    pub(crate) name_servers: Vec<SocketAddr>,
}

/// A network that waits for its guest.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) kept: Kept,
    pub(crate) exposed: Vec<Exposed>,
    /// Connections that the guest believes to be open.
    pub(crate) stale: Connections,
}

impl Prepared {
    /// What the guest has to know of it.
    pub(crate) fn brought(&self) -> Brought {
        let vault = &self.kept.vault;
        let variables = vault.environment();
        let environment: EnvVars = variables.iter().cloned().collect();
        Brought {
            certificates: vault.certificate(),
            environment: (!variables.is_empty()).then_some(environment),
        }
    }
}

/// A port of this host's loopback interface that leads to one of the guest's: `8080`, or `8080:3000`. Port 0 of
/// the host is any that is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// The port of this host; 0: any that is free.
    pub host: u16,
    /// The guest's.
    pub guest: NonZeroU16,
}

impl FromStr for PortMapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (host, guest) = text.split_once(':').unwrap_or((text, text));
        match (host.parse(), guest.parse()) {
            (Ok(host), Ok(guest)) => Ok(Self { host, guest }),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "`{text}` is no pair of ports; write the host's and the guest's, as in 8080:3000, or one for both; \
                     0 on the host is any that is free"
                ),
            )),
        }
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

impl PortMapping {
    /// Takes the port.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: it is in use, or not permitted.
    pub(crate) fn bind(self) -> Result<Exposed, Error> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, self.host));
        let bound = std::net::TcpListener::bind(wanted).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let at = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, at))
        });
        let (listener, at) = bound.map_err(|e| {
            let message = format!(
                "port {} of this host cannot be exposed: {e}; choose another one, or 0 for any that is free",
                self.host
            );
            Error::new(ErrorKind::Invalid, message).caused_by(e)
        })?;
        Ok(Exposed {
            listener,
            at,
            guest: self.guest.get(),
        })
    }
}

/// A port that is exposed.
#[derive(Debug)]
pub(crate) struct Exposed {
    pub(crate) listener: TcpListener,
    at: SocketAddr,
    pub(crate) guest: u16,
}

impl Exposed {
    /// How it is reached.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.at)
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
            host: first.at.port(),
            guest: NonZeroU16::MIN,
        };
        let error = again.bind().unwrap_err();
        let port = first.at.port().to_string();
        assert!(error.to_string().contains(&port), "{error}");
    }
}

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::limits::NetworkLimits;
use super::special_address::are_open;
use crate::value::{HeaderName, HostName, HostPattern, Method, Net, Ports, RuleId, SecretName};

/// What a guest may reach. What no rule allows is denied.
///
/// The order of the rules matters only in this: the first one that allows something is the one named for
/// it, and says how it goes on (passed through, terminated, or read request by request).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// What refusals call it: the file's name without its ending, or `command line`.
    pub name: String,
    /// What is allowed.
    pub rules: Vec<Rule>,
    /// How much of it.
    pub limits: NetworkLimits,
    /// What the guest may use and never see.
    pub secrets: Vec<SecretRule>,
}

/// One thing that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The user's, or `allow-1` by its place; unique in a policy.
    pub id: RuleId,
    /// The hosts that it is about; none: it is about addresses, and names are not looked at.
    pub hosts: Vec<HostPattern>,
    /// With hosts: special addresses that these may have, too. Without: the addresses that it is about.
    ///
    /// A special address (see [`special`](crate::policy::special)) is named only by a network that lies in its range:
    /// `10.0.0.0/8` names private addresses, `0.0.0.0/0` names none.
    pub addresses: Vec<IpNet>,
    /// Where on these hosts.
    pub ports: Ports,
    /// Which methods of HTTP; none: all. Where requests cannot be seen nothing is allowed then.
    pub methods: Vec<Method>,
    /// TLS ends in the gateway, so that each request is seen.
    pub terminate: bool,
    /// Anything may be spoken, and the name is checked by DNS alone.
    pub raw: bool,
}

/// A secret that the gateway puts into requests. Its value is not part of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretRule {
    /// The guest's environment variable for its placeholder.
    pub name: SecretName,
    /// To whom it may go. TLS to them is terminated.
    pub hosts: Vec<HostName>,
    /// In which headers of a request.
    pub headers: Vec<HeaderName>,
}

impl Policy {
    /// A policy that allows nothing.
    #[must_use]
    pub fn nothing(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rules: Vec::new(),
            limits: NetworkLimits::default(),
            secrets: Vec::new(),
        }
    }

    /// Whether a secret may go to this host, for which TLS has to be terminated.
    #[must_use]
    pub fn has_secret_for(&self, host: &HostName) -> bool {
        self.secrets
            .iter()
            .any(|secret| secret.hosts.contains(host))
    }
}

impl Rule {
    /// Whether it is about this host.
    #[must_use]
    pub fn matches(&self, name: &HostName) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether it lets a connection through unread, once its address and port are allowed.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.raw || self.hosts.is_empty() && self.methods.is_empty()
    }

    /// Whether it allows this method; only where requests are seen.
    #[must_use]
    pub fn allows_method(&self, method: &str) -> bool {
        self.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|allowed| allowed.as_ref() == method)
    }

    pub(crate) fn opens(&self, address: IpAddr) -> bool {
        are_open(&self.addresses, address)
    }

    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.contains(&address))
    }
}

/// As a word of the command line where one can say it, and a like it where not.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts.is_empty() {
            list(f, self.addresses.iter().map(Bracketed))?;
        } else {
            list(f, &self.hosts)?;
        }
        write!(f, ":{}", self.ports)?;
        if !self.hosts.is_empty() && !self.addresses.is_empty() {
            f.write_str(" at ")?;
            list(f, self.addresses.iter().map(Bracketed))?;
        }
        if !self.methods.is_empty() {
            f.write_str(" only ")?;
            list(f, &self.methods)?;
        }
        f.write_str(if self.terminate { " terminated" } else { "" })?;
        f.write_str(if self.raw { " raw" } else { "" })
    }
}

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = T>,
) -> fmt::Result {
    for (n, item) in items.into_iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

/// A network as a word has it: IPv6 in brackets.
struct Bracketed<'a>(&'a IpNet);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpNet::V4(_) => write!(f, "{}", Net(*self.0)),
            IpNet::V6(_) => write!(f, "[{}]", Net(*self.0)),
        }
    }
}

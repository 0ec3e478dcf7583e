//! Policies and their rules.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::limits::NetworkLimits;
use super::special_address::are_open;
use crate::value::{HeaderName, HostName, HostPattern, Method, Net, Ports, RuleId, SecretName};

/// The rules for a guest's network. Anything that no rule allows is denied.
///
/// The order of the rules matters in one respect: the first rule that allows something is reported for it, and says how
/// it is handled (forwarded, terminated, or read request by request).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// The name in denials: the file's name without its extension, or `command line`.
    pub name: String,
    /// The rules.
    pub rules: Vec<Rule>,
    /// The limits.
    pub limits: NetworkLimits,
    /// The secrets that the guest may use and never see.
    pub secrets: Vec<SecretRule>,
}

/// The word for the whole public internet, in rules of one word.
pub(crate) const INTERNET: &str = "internet";

/// A rule, which allows hosts, addresses or the public internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The id that the user gave, or `allow-N` by its position; unique in a policy.
    pub id: RuleId,
    /// Whether it allows every name and every public address. Special addresses remain denied.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub internet: bool,
    /// The hosts that it allows. If empty, it allows addresses, and names do not matter.
    pub hosts: Vec<HostPattern>,
    /// With hosts: special addresses that these may also have. Without hosts: the addresses that it allows.
    ///
    /// A special address (see [`special`](crate::policy::special)) is named only by a network inside its range:
    /// `10.0.0.0/8` names private addresses, `0.0.0.0/0` names none.
    pub addresses: Vec<IpNet>,
    /// The ports that it allows.
    pub ports: Ports,
    /// The HTTP methods that it allows; all if empty. With methods, nothing is allowed where requests cannot be read.
    pub methods: Vec<Method>,
    /// Whether TLS is terminated in the gateway, so that each request is read.
    pub terminate: bool,
    /// Whether any protocol is allowed. The name is then checked only by DNS.
    pub raw: bool,
}

/// A secret that the gateway puts into requests. Its value is not part of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretRule {
    /// The guest's environment variable that holds its placeholder.
    pub name: SecretName,
    /// The hosts that it may be sent to. TLS to them is terminated.
    pub hosts: Vec<HostName>,
    /// The request headers that may contain it.
    pub headers: Vec<HeaderName>,
}

impl Policy {
    /// Returns a policy that allows nothing.
    #[must_use]
    pub fn nothing(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rules: Vec::new(),
            limits: NetworkLimits::default(),
            secrets: Vec::new(),
        }
    }

    /// Returns whether a secret may be sent to this host, so that TLS to it is terminated.
    #[must_use]
    pub fn has_secret_for(&self, host: &HostName) -> bool {
        self.secrets
            .iter()
            .any(|secret| secret.hosts.contains(host))
    }
}

impl Rule {
    /// Returns whether it allows this host.
    #[must_use]
    pub fn matches(&self, name: &HostName) -> bool {
        self.internet || self.hosts.iter().any(|pattern| pattern.matches(name))
    }

    /// Returns whether it forwards connections to an allowed address and port without reading them.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.raw || self.hosts.is_empty() && self.methods.is_empty()
    }

    /// Returns whether it allows this method of a request that is read.
    #[must_use]
    pub fn allows_method(&self, method: &str) -> bool {
        self.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|allowed| allowed.as_ref() == method)
    }

    /// Returns whether it names this address, as far as special addresses require it.
    pub(crate) fn opens(&self, address: IpAddr) -> bool {
        are_open(&self.addresses, address)
    }

    /// Returns whether it allows the address without a name. A special address must be named in addition.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.internet || self.addresses.iter().any(|net| net.contains(&address))
    }
}

/// Shows the rule as a word of the command line or, if no word can express it, in a similar form.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.internet {
            f.write_str(INTERNET)?;
        } else if self.hosts.is_empty() {
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

/// Writes items separated by commas.
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

/// Shows a network as a word of the command line does, with IPv6 in brackets.
struct Bracketed<'a>(&'a IpNet);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpNet::V4(_) => write!(f, "{}", Net(*self.0)),
            IpNet::V6(_) => write!(f, "[{}]", Net(*self.0)),
        }
    }
}

//! Rules as they are written.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::package_index::Ecosystem;
use crate::policy::rule::INTERNET;
use crate::value::{
    HostPattern, Method, NameError, Net, NetError, Ports, PortsError, RuleId, one_or_many,
};

/// Maximum number of hosts, of addresses and of methods of one rule. A guest's lookups compare all of them.
pub const MAX_RULE_ITEMS: usize = 64;

/// A rule as it is written: a table `[[allow]]` of a document, or a word of a command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "UncheckedRuleSpec")]
pub struct RuleSpec {
    /// The rule's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<RuleId>,
    /// Whether the rule is for the whole public internet: every name, and every address that is not special.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub internet: bool,
    /// Hosts, and patterns of hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<HostPattern>,
    /// The ecosystem whose package index, as this host's tools use it, replaces hosts and ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Ecosystem>,
    /// Addresses; see [`Rule::addresses`](crate::policy::Rule::addresses).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Net>,
    /// Ports; the default with hosts is 80 and 443, that for the internet all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// HTTP methods; all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// Whether TLS is terminated in the gateway.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub terminate: bool,
    /// Whether any protocol is allowed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
}

/// The same before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedRuleSpec {
    id: Option<RuleId>,
    #[serde(default)]
    internet: bool,
    #[serde(default, deserialize_with = "one_or_many")]
    host: Vec<HostPattern>,
    index: Option<Ecosystem>,
    #[serde(default, deserialize_with = "one_or_many")]
    addresses: Vec<Net>,
    ports: Option<Ports>,
    #[serde(default, deserialize_with = "one_or_many")]
    methods: Vec<Method>,
    #[serde(default)]
    terminate: bool,
    #[serde(default)]
    raw: bool,
}

impl TryFrom<UncheckedRuleSpec> for RuleSpec {
    type Error = RuleSpecError;

    fn try_from(unchecked: UncheckedRuleSpec) -> Result<Self, RuleSpecError> {
        let UncheckedRuleSpec {
            id,
            internet,
            host,
            index,
            addresses,
            ports,
            methods,
            terminate,
            raw,
        } = unchecked;

        let spec = Self {
            id,
            internet,
            host,
            index,
            addresses,
            ports,
            methods,
            terminate,
            raw,
        };
        spec.check()?;

        Ok(spec)
    }
}

/// Why a rule is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleSpecError {
    /// It has no subject.
    #[error("a rule needs `host`, `index`, `addresses` or `internet`")]
    NoSubject,
    /// It is for the whole internet, and has other restrictions than ports.
    #[error(
        "a rule with `internet` allows every public host with any protocol; only `ports` and `id` can be set with it; \
         write another rule for special addresses"
    )]
    InternetAndMore,
    /// It has both hosts and an index.
    #[error("a rule cannot have both `host` and `index`; write two rules")]
    HostAndIndex,
    /// It has an index and ports.
    #[error(
        "a rule with `index` uses the ports that this host's tools are configured for; remove `ports`"
    )]
    IndexAndPorts,
    /// It has only addresses, and no ports.
    #[error("a rule with only `addresses` needs `ports`, as in 10.0.0.0/8:5432, or `any`")]
    NoPorts,
    /// It terminates TLS without a name.
    #[error("a rule with only `addresses` cannot terminate TLS, which needs a name; add `host`")]
    TerminateWithoutHost,
    /// It has only addresses, and `raw`.
    #[error("a rule with only `addresses` allows any protocol already; remove `raw`")]
    RawWithoutHost,
    /// It allows any protocol, and restricts requests.
    #[error(
        "`raw` forwards connections unread, so `terminate` and `methods` cannot apply; remove one of them"
    )]
    RawAndRead,
    /// It has more than [`MAX_RULE_ITEMS`] of one kind.
    #[error(
        "a rule has more than {MAX_RULE_ITEMS} entries in `{0}`; write another rule for the rest"
    )]
    TooMany(&'static str),
    /// The word is a URL.
    #[error("`{0}` is a URL; write only its host and port, as in example.com:8443")]
    Url(String),
    /// The word is an IPv6 address without brackets.
    #[error("`{0}`: write IPv6 in brackets, as in [2001:db8::/32]:443")]
    Brackets(String),
    /// The ecosystem is unknown.
    #[error("`index:{0}` is not a known package index; use index:python or index:javascript")]
    Index(String),
    /// A host name is invalid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A network is invalid.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Ports are invalid.
    #[error(transparent)]
    Ports(#[from] PortsError),
}

impl RuleSpec {
    /// Checks that the parts of the rule fit together.
    ///
    /// # Errors
    /// Returns the first contradiction.
    pub(crate) fn check(&self) -> Result<(), RuleSpecError> {
        if self.internet {
            let only = Self {
                id: self.id.clone(),
                internet: true,
                ports: self.ports.clone(),
                ..Self::default()
            };
            return if *self == only {
                Ok(())
            } else {
                Err(RuleSpecError::InternetAndMore)
            };
        }

        // The first violated condition is reported.
        let has_name = !self.host.is_empty() || self.index.is_some();
        let violations = [
            (
                !has_name && self.addresses.is_empty(),
                RuleSpecError::NoSubject,
            ),
            (
                !self.host.is_empty() && self.index.is_some(),
                RuleSpecError::HostAndIndex,
            ),
            (
                self.index.is_some() && self.ports.is_some(),
                RuleSpecError::IndexAndPorts,
            ),
            (!has_name && self.ports.is_none(), RuleSpecError::NoPorts),
            (
                !has_name && self.terminate,
                RuleSpecError::TerminateWithoutHost,
            ),
            (!has_name && self.raw, RuleSpecError::RawWithoutHost),
            (
                self.raw && (self.terminate || !self.methods.is_empty()),
                RuleSpecError::RawAndRead,
            ),
            (
                self.host.len() > MAX_RULE_ITEMS,
                RuleSpecError::TooMany("host"),
            ),
            (
                self.addresses.len() > MAX_RULE_ITEMS,
                RuleSpecError::TooMany("addresses"),
            ),
            (
                self.methods.len() > MAX_RULE_ITEMS,
                RuleSpecError::TooMany("methods"),
            ),
        ];

        match violations.into_iter().find(|(is_violated, _)| *is_violated) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Parses a word: `example.com`, `*.example.com:443,8443`, `10.0.0.0/8:5432`, `[2001:db8::/32]:443`,
    /// `index:python`, `internet`. A host with the name `internet` needs a rule in a document.
    ///
    /// ```
    /// use fumehood_gateway::policy::RuleSpec;
    ///
    /// let entry = RuleSpec::parse_word("*.example.com:443,8000-8010")?;
    /// assert_eq!(entry.host[0].to_string(), "*.example.com");
    /// assert!(RuleSpec::parse_word("10.0.0.0/8").is_err(), "addresses need a port");
    /// # Ok::<(), fumehood_gateway::policy::RuleSpecError>(())
    /// ```
    ///
    /// # Errors
    /// Fails if the word is not a valid rule.
    pub fn parse_word(word: &str) -> Result<Self, RuleSpecError> {
        let shorten = || word.chars().take(80).collect();

        // A URL, or the index of an ecosystem.
        if word.contains("://") {
            return Err(RuleSpecError::Url(shorten()));
        }

        if let Some(ecosystem) = word.strip_prefix("index:")
            && !ecosystem.starts_with(|c: char| c.is_ascii_digit())
        {
            let index = ecosystem
                .parse()
                .map_err(|()| RuleSpecError::Index(ecosystem.chars().take(80).collect()))?;

            return Ok(Self {
                index: Some(index),
                ..Self::default()
            });
        }

        // A host or a network, with optional ports.
        let (subject, ports) = split(word).ok_or_else(|| RuleSpecError::Brackets(shorten()))?;
        let mut spec = Self {
            ports: ports.map(str::parse).transpose()?,
            ..Self::default()
        };

        match subject {
            Subject::Net(text) => spec.addresses.push(text.parse()?),
            Subject::Name(INTERNET) => spec.internet = true,
            Subject::Name(text) => spec.host.push(text.parse()?),
        }

        spec.check()?;

        Ok(spec)
    }
}

enum Subject<'a> {
    Net(&'a str),
    Name(&'a str),
}

/// Splits a word into its subject and ports; `None` if IPv6 is not in brackets, or the brackets are wrong.
fn split(word: &str) -> Option<(Subject<'_>, Option<&str>)> {
    // IPv6 in brackets.
    if let Some(rest) = word.strip_prefix('[') {
        let (net, rest) = rest.split_once(']')?;
        let address = net.split('/').next().unwrap_or_default();
        address.parse::<Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(ports) => Some((Subject::Net(net), Some(ports))),
            None if rest.is_empty() => Some((Subject::Net(net), None)),
            None => None,
        };
    }

    // More than one colon outside of brackets is IPv6 without them.
    if word.matches(':').count() > 1 {
        return None;
    }

    let (subject, ports) = match word.split_once(':') {
        Some((subject, ports)) => (subject, Some(ports)),
        None => (word, None),
    };

    let is_net = subject.contains('/') || subject.parse::<std::net::Ipv4Addr>().is_ok();
    let subject = if is_net {
        Subject::Net(subject)
    } else {
        Subject::Name(subject)
    };

    Some((subject, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_hosts_networks_or_indexes() {
        for word in ["example.com", "*.example.com:443,8443", "index:80"] {
            let spec = RuleSpec::parse_word(word).unwrap();
            assert_eq!((spec.host.len(), spec.addresses.len()), (1, 0), "{word}");
        }

        for word in [
            "10.0.0.0/8:5432",
            "[2001:db8::/32]:443",
            "203.0.113.7:80",
            "[::1]:any",
        ] {
            let spec = RuleSpec::parse_word(word).unwrap();
            assert_eq!((spec.host.len(), spec.addresses.len()), (0, 1), "{word}");
        }

        for (word, ports) in [("internet", None), ("internet:443", Some("443"))] {
            let spec = RuleSpec::parse_word(word).unwrap();
            assert!(spec.internet && spec.host.is_empty(), "{word}");
            assert_eq!(spec.ports, ports.map(|ports| ports.parse().unwrap()));
        }

        let index = RuleSpec::parse_word("index:javascript").unwrap().index;
        assert_eq!(index, Some(Ecosystem::JavaScript));
    }

    #[test]
    fn invalid_words_are_rejected_with_advice() {
        for (word, expected) in [
            ("https://example.com", "write only its host and port"),
            ("2001:db8::1", "in brackets"),
            ("[2001:db8::1", "in brackets"),
            ("[203.0.113.7]:80", "in brackets"),
            ("[::1]80", "in brackets"),
            ("10.0.0.0/8", "needs `ports`"),
            ("10.1.2.3/8:1", "write 10.0.0.0/8, or 10.1.2.3"),
            ("10.0.0.0/33:1", "is not an address"),
            ("example.com:0", "is not a port"),
            ("example.com:+80", "is not a port"),
            ("example.com:", "is not a port"),
            ("example.com:65536", "is not a port"),
            ("example.com:90-80", "the start is greater than the end"),
            ("index:ruby", "use index:python or index:javascript"),
            ("*", "the whole first label"),
            ("", "empty label"),
        ] {
            let error = RuleSpec::parse_word(word).unwrap_err().to_string();
            assert!(error.contains(expected), "{word}: {error}");
        }
    }
}

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::package_index::Ecosystem;
use crate::value::{
    HostPattern, Method, NameError, Net, NetError, Ports, PortsError, RuleId, one_or_many,
};

/// Hosts of one rule at most, and addresses; a guest's lookups walk through all of them.
pub const MAX_RULE_ITEMS: usize = 64;

/// A rule as it is written: a table `[[allow]]` of a document, or a word of a command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "UncheckedRuleSpec")]
pub struct RuleSpec {
    /// What it is to be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<RuleId>,
    /// Hosts, and all hosts below some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<HostPattern>,
    /// The package index that this host's tools use, in place of hosts and ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Ecosystem>,
    /// Addresses; see [`Rule::addresses`](crate::policy::Rule::addresses).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Net>,
    /// Ports; none with hosts: 80 and 443.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// Methods of HTTP; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// TLS ends in the gateway.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub terminate: bool,
    /// Anything may be spoken.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
}

/// The same before it is known to make sense.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedRuleSpec {
    id: Option<RuleId>,
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
            host,
            index,
            addresses,
            ports,
            methods,
            terminate,
            raw,
        } = unchecked;
        let entry = Self {
            id,
            host,
            index,
            addresses,
            ports,
            methods,
            terminate,
            raw,
        };
        entry.check()?;
        Ok(entry)
    }
}

/// Why a rule cannot be as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleSpecError {
    /// It is about nothing.
    #[error("a rule needs `host`, `index` or `addresses`")]
    AboutNothing,
    /// It is about hosts and an index.
    #[error("a rule has `host` or `index`, not both; write two rules")]
    HostAndIndex,
    /// An index has its own ports.
    #[error(
        "a rule with `index` has the ports that this host's tools are configured for; leave `ports` out"
    )]
    IndexAndPorts,
    /// Addresses alone, and no port.
    #[error("a rule of addresses needs `ports`, as in 10.0.0.0/8:5432; any is a choice as well")]
    NoPorts,
    /// There is no name to terminate TLS for.
    #[error("a rule of addresses alone cannot terminate TLS, which needs a name; give `host`")]
    TerminateWithoutHost,
    /// Anything may be spoken to addresses alone.
    #[error("a rule of addresses alone is raw already; leave `raw` out")]
    RawWithoutHost,
    /// What is raw cannot be read.
    #[error(
        "`raw` lets anything through unread, so that `terminate` and `methods` cannot hold; leave one out"
    )]
    RawAndRead,
    /// Past [`MAX_RULE_ITEMS`].
    #[error("more than {MAX_RULE_ITEMS} of `{0}` in a rule; write another rule for the rest")]
    Many(&'static str),
    /// A URL in place of a host.
    #[error("`{0}` is a URL; write its host and port alone, as in example.com:8443")]
    Url(String),
    /// An address of IPv6 without brackets.
    #[error("`{0}`: write IPv6 in brackets, as in [2001:db8::/32]:443")]
    Brackets(String),
    /// An index of no known language.
    #[error(
        "`index:{0}` is no package index that is known; there are index:python and index:javascript"
    )]
    Index(String),
    /// A host name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Ports.
    #[error(transparent)]
    Ports(#[from] PortsError),
}

impl RuleSpec {
    /// # Errors
    /// Its parts do not go together.
    pub(crate) fn check(&self) -> Result<(), RuleSpecError> {
        let has_name = !self.host.is_empty() || self.index.is_some();
        let faults = [
            (
                !has_name && self.addresses.is_empty(),
                RuleSpecError::AboutNothing,
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
                RuleSpecError::Many("host"),
            ),
            (
                self.addresses.len() > MAX_RULE_ITEMS,
                RuleSpecError::Many("addresses"),
            ),
            (
                self.methods.len() > MAX_RULE_ITEMS,
                RuleSpecError::Many("methods"),
            ),
        ];
        match faults.into_iter().find(|(is_so, _)| *is_so) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// A rule from a word: `example.com`, `*.example.com:443,8443`, `10.0.0.0/8:5432`, `[2001:db8::/32]:443`,
    /// `index:python`.
    ///
    /// ```
    /// use fumehood_gateway::policy::RuleSpec;
    ///
    /// let entry = RuleSpec::parse_word("*.example.com:443,8000-8010")?;
    /// assert_eq!(entry.host[0].to_string(), "*.example.com");
    /// assert!(RuleSpec::parse_word("10.0.0.0/8").is_err(), "addresses need a port");
    /// # Ok::<(), fumehood_gateway::policy::EntryError>(())
    /// ```
    ///
    /// # Errors
    /// The word is no rule.
    pub fn parse_word(word: &str) -> Result<Self, RuleSpecError> {
        let shown = || word.chars().take(80).collect();
        if word.contains("://") {
            return Err(RuleSpecError::Url(shown()));
        }
        if let Some(language) = word.strip_prefix("index:")
            && !language.starts_with(|c: char| c.is_ascii_digit())
        {
            let index = language
                .parse()
                .map_err(|()| RuleSpecError::Index(language.chars().take(80).collect()))?;
            return Ok(Self {
                index: Some(index),
                ..Self::default()
            });
        }
        let (subject, ports) = split(word).ok_or_else(|| RuleSpecError::Brackets(shown()))?;
        let mut entry = Self {
            ports: ports.map(str::parse).transpose()?,
            ..Self::default()
        };
        match subject {
            Subject::Net(text) => entry.addresses.push(text.parse()?),
            Subject::Name(text) => entry.host.push(text.parse()?),
        }
        entry.check()?;
        Ok(entry)
    }
}

enum Subject<'a> {
    Net(&'a str),
    Name(&'a str),
}

/// What a word is about, and its ports. None: IPv6 is not in brackets, or the brackets are wrong.
fn split(word: &str) -> Option<(Subject<'_>, Option<&str>)> {
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
    fn words_are_hosts_networks_and_indexes() {
        for word in ["example.com", "*.example.com:443,8443", "index:80"] {
            let entry = RuleSpec::parse_word(word).unwrap();
            assert_eq!((entry.host.len(), entry.addresses.len()), (1, 0), "{word}");
        }
        for word in [
            "10.0.0.0/8:5432",
            "[2001:db8::/32]:443",
            "203.0.113.7:80",
            "[::1]:any",
        ] {
            let entry = RuleSpec::parse_word(word).unwrap();
            assert_eq!((entry.host.len(), entry.addresses.len()), (0, 1), "{word}");
        }
        let index = RuleSpec::parse_word("index:javascript").unwrap().index;
        assert_eq!(index, Some(Ecosystem::JavaScript));
    }

    #[test]
    fn what_is_no_word_says_what_to_write() {
        for (word, expected) in [
            ("https://example.com", "write its host and port alone"),
            ("2001:db8::1", "in brackets"),
            ("[2001:db8::1", "in brackets"),
            ("[203.0.113.7]:80", "in brackets"),
            ("[::1]80", "in brackets"),
            ("10.0.0.0/8", "needs `ports`"),
            ("10.1.2.3/8:1", "write 10.0.0.0/8, or 10.1.2.3"),
            ("10.0.0.0/33:1", "is no address"),
            ("example.com:0", "is no port"),
            ("example.com:+80", "is no port"),
            ("example.com:", "is no port"),
            ("example.com:65536", "is no port"),
            ("example.com:90-80", "write the smaller one first"),
            ("index:ruby", "there are index:python and index:javascript"),
            ("*", "stands alone"),
            ("", "empty label"),
        ] {
            let error = RuleSpec::parse_word(word).unwrap_err().to_string();
            assert!(error.contains(expected), "{word}: {error}");
        }
    }
}

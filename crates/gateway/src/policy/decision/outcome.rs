//! The result of a decision.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::value::{Host, HostName, RuleId};

/// A policy's answer to a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether and how it is allowed.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The rule that allows it; `None` if it is denied.
    pub rule: Option<RuleId>,
    /// The reason.
    pub reason: Reason,
    /// The subject of the query.
    pub subject: Subject,
}

/// Whether and how something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "handling")]
pub enum Verdict {
    /// It is allowed, and handled like this.
    Allow(Handling),
    /// It is denied.
    Deny,
}

/// How something that is allowed is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// Forward without further checks.
    Forward,
    /// Read the guest's first bytes, and ask [`PolicyQuery::FirstBytes`](super::PolicyQuery::FirstBytes).
    InspectFirstBytes,
    /// Read the requests of plain HTTP, and ask [`PolicyQuery::Request`](super::PolicyQuery::Request) for each.
    InspectRequests,
    /// Terminate TLS in the gateway, and ask [`PolicyQuery::Request`](super::PolicyQuery::Request) for each request.
    TerminateTls,
}

/// The host that a query was about, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The name: the one in the query, or else a name of the address, preferably one that a rule matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<HostName>,
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Why something is allowed or denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "code")]
pub enum Reason {
    /// A rule allows it.
    Rule,
    /// No rule matches.
    NoRule,
    /// A rule allows the host, but not this port.
    PortNotAllowed {
        /// The rule.
        rule: RuleId,
    },
    /// The address is special, and no rule for the host names it.
    SpecialAddress {
        /// The name of the address range.
        range: &'static str,
    },
    /// The guest did not receive this address for an allowed name, or the answer has expired.
    NotResolved,
    /// TLS contains no server name.
    NoServerName,
    /// TLS contains an encrypted part that may hide another name.
    EncryptedServerName,
    /// TLS contains a server name that is not allowed here.
    OtherServerName {
        /// The server name.
        name: HostName,
    },
    /// A request is for a host that is not allowed here.
    OtherHost {
        /// The host.
        host: Host,
        /// The port that the request names.
        port: Option<u16>,
    },
    /// The protocol is neither TLS nor HTTP.
    NotTlsNorHttp,
    /// A rule allows only some methods, and TLS hides them.
    MethodHidden {
        /// The rule.
        rule: RuleId,
    },
    /// The method is not allowed.
    MethodNotAllowed {
        /// The method, truncated if it is long.
        method: String,
        /// The rule that allows other methods.
        rule: RuleId,
    },
    /// A request asks for an upgrade of the connection, which would hide the methods that a rule restricts.
    UpgradeHidesMethods {
        /// The rule.
        rule: RuleId,
    },
    /// UDP is never forwarded.
    Datagram,
    /// The protocol is neither TCP nor UDP.
    Protocol {
        /// The protocol's number in the IP header.
        protocol: u8,
    },
}

impl Decision {
    /// Returns whether it is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Allow(_))
    }
}

impl Reason {
    /// Returns a stable code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::NoRule => "no_rule",
            Self::PortNotAllowed { .. } => "port_not_allowed",
            Self::SpecialAddress { .. } => "special_address",
            Self::NotResolved => "not_resolved",
            Self::NoServerName => "no_server_name",
            Self::EncryptedServerName => "encrypted_server_name",
            Self::OtherServerName { .. } => "other_server_name",
            Self::OtherHost { .. } => "other_host",
            Self::NotTlsNorHttp => "not_tls_nor_http",
            Self::MethodHidden { .. } => "method_hidden",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::UpgradeHidesMethods { .. } => "upgrade_hides_methods",
            Self::Datagram => "datagram",
            Self::Protocol { .. } => "protocol",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.address) {
            (Some(name), _) => write!(f, "{name}")?,
            (None, Some(address)) => write!(f, "{}", Host::Address(address))?,
            (None, None) => f.write_str("nothing")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

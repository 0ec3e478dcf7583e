use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::value::{Host, HostName, RuleId};

/// An answer of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Yes and how, or no.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The rule that allows it; none where it is denied.
    pub rule: Option<RuleId>,
    /// Why.
    pub reason: Reason,
    /// What was asked for.
    pub subject: Subject,
}

/// Yes and how, or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "pass")]
pub enum Verdict {
    /// It may go on.
    Allow(Pass),
    /// It may not.
    Deny,
}

/// How something that is allowed goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// As it is; there is nothing more to ask.
    Through,
    /// The guest's first bytes are read, and [`Question::Speak`](super::Question::Speak) asked.
    Listen,
    /// It is plain HTTP, and [`Question::Request`](super::Question::Request) is asked for each request.
    Inspect,
    /// TLS ends in the gateway, and [`Question::Request`](super::Question::Request) is asked for each request.
    Terminate,
}

/// What a question was about, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The host's name: the one asked for, or one that a rule is about, or any that the address has.
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
    /// No rule is about it.
    NoRule,
    /// A rule is about the host, and not about this port.
    PortNotAllowed {
        /// That rule.
        rule: RuleId,
    },
    /// The address is special, and no rule that is about the host names it.
    SpecialAddress {
        /// The range's name.
        range: &'static str,
    },
    /// The guest was not told this address for any allowed name, or too long ago.
    NotResolved,
    /// TLS says no name.
    NoServerName,
    /// TLS has a part that may hide another name.
    EncryptedServerName,
    /// TLS says a name that is not allowed here.
    OtherServerName {
        /// That name.
        name: HostName,
    },
    /// A request is for a host that is not allowed here.
    OtherHost {
        /// That host.
        host: Host,
        /// And the port that it said.
        port: Option<u16>,
    },
    /// What is spoken is neither TLS nor HTTP.
    NotTlsNorHttp,
    /// A rule allows only some methods, and TLS hides them.
    MethodHidden {
        /// That rule.
        rule: RuleId,
    },
    /// The method is not allowed.
    MethodNotAllowed {
        /// That method, or its beginning.
        method: String,
        /// The rule that would allow others.
        rule: RuleId,
    },
    /// UDP.
    Datagram,
    /// Neither TCP nor UDP.
    Protocol {
        /// Its number in the IP header.
        protocol: u8,
    },
}

impl Decision {
    /// Whether it may go on.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Allow(_))
    }
}

impl Reason {
    /// A stable word for programs.
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

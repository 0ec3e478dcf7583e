//! Explains the decisions of a policy for a URL.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;
use url::Url;

use super::decide::decide;
use super::outcome::{Decision, Handling, Verdict};
use super::query::{ClientProtocol, PolicyQuery};
use crate::policy::rule::Policy;
use crate::value::{Host, HostName, Method, RuleId};

/// The public address that is assumed if none is given. It is reserved for documentation, and not special.
const ASSUMED_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// The protocol that is spoken with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// Any other protocol over TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A destination that a guest may want to reach, such as `https://example.com:8443`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The protocol.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// A text is not a target.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "cannot explain `{0}`; write https://example.com, http://…, tcp://example.com:22 or udp://…:443"
)]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let error = || TargetError(text.chars().take(200).collect());
        let url: Url = text.parse().map_err(|_| error())?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "tcp" => Scheme::Tcp,
            "udp" => Scheme::Udp,
            _ => return Err(error()),
        };
        let host = url
            .host_str()
            .and_then(|host| host.parse().ok())
            .ok_or_else(error)?;
        let port = url
            .port_or_known_default()
            .filter(|port| *port > 0)
            .ok_or_else(error)?;
        Ok(Self { scheme, host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Tcp => "tcp",
            Scheme::Udp => "udp",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// The decisions of a policy for a guest that connects to a target, step by step up to the first denial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The policy's name.
    pub policy: String,
    /// The address of the host.
    pub address: IpAddr,
    /// The address was not given: it stands for any public address.
    pub is_assumed: bool,
    /// The target's port.
    pub port: u16,
    /// Whether all steps are allowed.
    pub is_allowed: bool,
    /// The decisions that the gateway makes, in order.
    pub steps: Vec<Step>,
}

/// One query and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The query in words.
    pub what: String,
    /// The decision.
    pub decision: Decision,
    /// The text of the rule that allows it.
    pub rule_text: Option<String>,
}

/// Asks [`decide`] everything that the gateway would ask for a guest that connects to `target`.
///
/// `address` is the address that the host's name resolves to; without it, any public address is assumed. `method` is the
/// method of the request that is made if requests are read.
#[must_use]
pub fn explain(
    policy: &Policy,
    target: &Target,
    address: Option<IpAddr>,
    method: &Method,
) -> Explanation {
    let literal = match target.host {
        Host::Address(literal) => Some(literal),
        Host::Name(_) => None,
    };
    let given = literal.or(address);
    let mut explanation = Explanation {
        policy: policy.name.clone(),
        address: given.unwrap_or(ASSUMED_ADDRESS),
        is_assumed: given.is_none(),
        port: target.port,
        is_allowed: false,
        steps: Vec::new(),
    };
    explanation.is_allowed = explanation.add_steps(policy, target, method).is_some();
    explanation
}

impl Explanation {
    /// Adds the steps up to the first denial; returns `None` if there is one.
    fn add_steps(&mut self, policy: &Policy, target: &Target, method: &Method) -> Option<()> {
        let (address, port) = (self.address, target.port);
        let name = match &target.host {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        };

        // The lookup of the name.
        if let Some(name) = &name {
            let what = format!("look up {name}");
            self.add_step(policy, what, &PolicyQuery::Lookup { name })?;
            let what = format!("resolve it to {}", self.shown_address());
            self.add_step(policy, what, &PolicyQuery::Resolved { name, address })?;
        }
        if target.scheme == Scheme::Udp {
            let what = format!("send a datagram to port {port}");
            self.add_step(policy, what, &PolicyQuery::Datagram { address, port })?;
            return Some(());
        }

        // The connection.
        let names = name.as_slice();
        let what = format!("connect to {}, port {port}", self.shown_address());
        let query = PolicyQuery::Connect {
            address,
            port,
            names,
        };
        if self.add_step(policy, what, &query)? == Handling::Forward {
            return Some(());
        }

        // Its first bytes.
        let (what, protocol) = client_protocol(target.scheme, name.as_ref());
        let query = PolicyQuery::FirstBytes {
            address,
            port,
            names,
            protocol,
        };
        let handling = self.add_step(policy, what, &query)?;
        if handling == Handling::Forward {
            return Some(());
        }

        // A request.
        let (host, method) = (&target.host, method.as_ref());
        let query = PolicyQuery::Request {
            address,
            port,
            names,
            tls: name.as_ref().filter(|_| handling == Handling::TerminateTls),
            host,
            host_port: Some(port),
            method,
            upgrades: false,
        };
        self.add_step(policy, format!("request {method} of {host}"), &query)?;
        Some(())
    }

    fn add_step(
        &mut self,
        policy: &Policy,
        what: String,
        query: &PolicyQuery<'_>,
    ) -> Option<Handling> {
        let mut decision = decide(policy, query);
        // A lookup has no port. With the target's port, the advice covers everything that the target needs.
        decision.subject.port.get_or_insert(self.port);

        let verdict = decision.verdict;
        let rule_text = decision.rule.as_ref().and_then(|id| rule_text(policy, id));
        self.steps.push(Step {
            what,
            decision,
            rule_text,
        });
        match verdict {
            Verdict::Allow(handling) => Some(handling),
            Verdict::Deny => None,
        }
    }

    fn shown_address(&self) -> String {
        if self.is_assumed {
            "a public address".into()
        } else {
            self.address.to_string()
        }
    }
}

/// Returns the protocol of a client of this scheme, in words and in the policy's terms.
fn client_protocol(scheme: Scheme, name: Option<&HostName>) -> (String, ClientProtocol<'_>) {
    match (scheme, name) {
        (Scheme::Http, _) => ("speak HTTP".into(), ClientProtocol::Http),
        (Scheme::Https, Some(name)) => (
            format!("speak TLS for {name}"),
            ClientProtocol::Tls {
                server_name: Some(name),
                encrypted: false,
            },
        ),
        (Scheme::Https, None) => (
            "speak TLS without a name".into(),
            ClientProtocol::Tls {
                server_name: None,
                encrypted: false,
            },
        ),
        (Scheme::Tcp | Scheme::Udp, _) => ("speak something else".into(), ClientProtocol::Other),
    }
}

fn rule_text(policy: &Policy, id: &RuleId) -> Option<String> {
    let rule = policy.rules.iter().find(|rule| rule.id == *id)?;
    Some(rule.to_string())
}

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;
use url::Url;

use super::decide::decide;
use super::outcome::{Decision, Pass, Verdict};
use super::query::{Question, Said};
use crate::policy::rule::Policy;
use crate::value::{Host, HostName, Method, RuleId};

/// Stands for a public address where none is given: one for documentation, which is not special.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// What is spoken to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// Anything else over TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Somewhere that a guest may want to go: `https://example.com:8443`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// What is spoken.
    pub scheme: Scheme,
    /// To whom.
    pub host: Host,
    /// Where.
    pub port: u16,
}

/// Why a text is nowhere to go.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no URL to explain; write https://example.com, http://…, tcp://example.com:22 or udp://…:443"
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

/// What would become of a guest's wish, step by step, up to the first denial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The policy's name.
    pub policy: String,
    /// The address that the host is taken to have.
    pub address: IpAddr,
    /// Nobody said so: any public address is meant.
    pub is_assumed: bool,
    /// The port that is wanted.
    pub port: u16,
    /// Whether all of it is allowed.
    pub is_allowed: bool,
    /// What the gateway asks itself, in this order.
    pub steps: Vec<Step>,
}

/// One question, and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The question in words.
    pub what: String,
    /// The answer.
    pub decision: Decision,
    /// The text of the rule that allows it.
    pub rule_text: Option<String>,
}

/// Asks `decide` all that the gateway would ask for a guest that goes to `target`.
///
/// `address` is what the host's name resolves to; without it, some public address. `method` is that of the
/// one request that is made where requests are seen.
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
        address: given.unwrap_or(PUBLIC),
        is_assumed: given.is_none(),
        port: target.port,
        is_allowed: false,
        steps: Vec::new(),
    };
    explanation.is_allowed = explanation.walk(policy, target, method).is_some();
    explanation
}

impl Explanation {
    /// None: denied at the last step.
    fn walk(&mut self, policy: &Policy, target: &Target, method: &Method) -> Option<()> {
        let (address, port) = (self.address, target.port);
        let name = match &target.host {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        };
        if let Some(name) = &name {
            self.ask(
                policy,
                format!("look up {name}"),
                &Question::Lookup { name },
            )?;
            let what = format!("resolve it to {}", self.shown());
            self.ask(policy, what, &Question::Resolved { name, address })?;
        }
        if target.scheme == Scheme::Udp {
            let what = format!("send a datagram to port {port}");
            self.ask(policy, what, &Question::Datagram { address, port })?;
            return Some(());
        }
        let names = name.as_slice();
        let what = format!("connect to {}, port {port}", self.shown());
        let pass = self.ask(
            policy,
            what,
            &Question::Connect {
                address,
                port,
                names,
            },
        )?;
        if pass == Pass::Through {
            return Some(());
        }
        let (what, said) = said(target.scheme, name.as_ref());
        let pass = self.ask(
            policy,
            what,
            &Question::Speak {
                address,
                port,
                names,
                said,
            },
        )?;
        if pass == Pass::Through {
            return Some(());
        }
        let tls = name.as_ref().filter(|_| pass == Pass::Terminate);
        let (host, method) = (&target.host, method.as_ref());
        let question = Question::Request {
            address,
            port,
            names,
            tls,
            host,
            host_port: Some(port),
            method,
        };
        self.ask(policy, format!("request {method} of {host}"), &question)?;
        Some(())
    }

    fn ask(&mut self, policy: &Policy, what: String, question: &Question<'_>) -> Option<Pass> {
        let mut decision = decide(policy, question);
        // A lookup has no port; with it, the advice is for all that is wanted.
        decision.subject.port.get_or_insert(self.port);
        let verdict = decision.verdict;
        let rule_text = decision.rule.as_ref().and_then(|id| text_of(policy, id));
        self.steps.push(Step {
            what,
            decision,
            rule_text,
        });
        match verdict {
            Verdict::Allow(pass) => Some(pass),
            Verdict::Deny => None,
        }
    }

    fn shown(&self) -> String {
        match self.is_assumed {
            true => "a public address".into(),
            false => self.address.to_string(),
        }
    }
}

fn said(scheme: Scheme, name: Option<&HostName>) -> (String, Said<'_>) {
    match (scheme, name) {
        (Scheme::Http, _) => ("speak HTTP".into(), Said::Http),
        (Scheme::Https, Some(name)) => (
            format!("speak TLS for {name}"),
            Said::Tls {
                server_name: Some(name),
                encrypted: false,
            },
        ),
        (Scheme::Https, None) => (
            "speak TLS without a name".into(),
            Said::Tls {
                server_name: None,
                encrypted: false,
            },
        ),
        (Scheme::Tcp | Scheme::Udp, _) => ("speak something else".into(), Said::Other),
    }
}

fn text_of(policy: &Policy, id: &RuleId) -> Option<String> {
    let rule = policy.rules.iter().find(|rule| rule.id == *id)?;
    Some(rule.to_string())
}

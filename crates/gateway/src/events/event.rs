use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::policy::{Decision, HostName, Policy, RuleId};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkAction {
    /// A name was asked for.
    Lookup,
    /// A connection was asked for, or spoke.
    Connection,
    /// A request of HTTP was read.
    Request,
    /// A connection came to its end; its bytes are all that it had.
    End,
    /// A packet that is never let through.
    Packet,
    /// A connection from this host to a port of the guest.
    Inbound,
}

/// Something that a guest did on its network, and what was decided. Nothing secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What it is about.
    pub what: NetworkAction,
    /// Whether it was allowed to go on.
    pub allowed: bool,
    /// The rule that allowed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// A stable word for the reason, as in [`Reason::code`](crate::policy::Reason::code).
    pub code: &'static str,
    /// The reason and, where it was denied, how to allow it: for a person.
    pub message: String,
    /// The host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<HostName>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The request's method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The answer's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes from the guest.
    pub bytes_up: u64,
    /// Bytes to the guest.
    pub bytes_down: u64,
}

impl Event {
    pub(crate) fn new(
        what: NetworkAction,
        allowed: bool,
        code: &'static str,
        message: String,
    ) -> Self {
        Self {
            what,
            allowed,
            rule: None,
            code,
            message,
            name: None,
            address: None,
            port: None,
            method: None,
            status: None,
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    /// What was allowed, and did not succeed.
    pub(crate) fn failed(what: NetworkAction, code: &'static str, why: String) -> Self {
        Self::new(what, true, code, why)
    }

    /// What a policy decided.
    pub(crate) fn decided(what: NetworkAction, policy: &Policy, decision: &Decision) -> Self {
        let allowed = decision.is_allowed();
        let message = match allowed {
            true => decision.sentence(),
            false => decision.refusal(&policy.name).trim_end().replace('\n', " "),
        };
        let subject = decision.subject.clone();
        Self {
            rule: decision.rule.clone(),
            name: subject.name,
            address: subject.address,
            port: subject.port,
            ..Self::new(what, allowed, decision.reason.code(), message)
        }
    }
    /// The same event, about this address and port.
    pub(crate) fn at(self, to: SocketAddr) -> Self {
        Self {
            address: Some(to.ip()),
            port: Some(to.port()),
            ..self
        }
    }
}

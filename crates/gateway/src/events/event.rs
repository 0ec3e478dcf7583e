//! One event.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::policy::{Decision, HostName, Policy, RuleId};

/// The kind of network activity that an event reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkAction {
    /// The guest looked up a name.
    Lookup,
    /// The guest opened a connection, or its first bytes were read.
    Connection,
    /// An HTTP request was read.
    Request,
    /// A connection ended. The event's byte counts are the connection's totals.
    End,
    /// The guest sent a packet that is never forwarded.
    Packet,
    /// A client on this host connected to an exposed port of the guest.
    Inbound,
}

/// Something that a guest did on its network, and the decision on it. It contains no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The kind of activity.
    pub what: NetworkAction,
    /// Whether it was allowed.
    pub allowed: bool,
    /// The rule that allowed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// A stable code for the reason, as in [`Reason::code`](crate::policy::Reason::code).
    pub code: &'static str,
    /// The reason in words and, for a denial, how to allow it.
    pub message: String,
    /// The host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<HostName>,
    /// The host's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The request's method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The response's status code.
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

    /// Creates an event for something that was allowed and failed.
    pub(crate) fn failed(what: NetworkAction, code: &'static str, reason: String) -> Self {
        Self::new(what, true, code, reason)
    }

    /// Creates an event for a decision of a policy.
    pub(crate) fn decided(what: NetworkAction, policy: &Policy, decision: &Decision) -> Self {
        let allowed = decision.is_allowed();
        let message = if allowed {
            decision.sentence()
        } else {
            decision.refusal(&policy.name).trim_end().replace('\n', " ")
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

    /// Returns the event with this address and port.
    pub(crate) fn at(self, to: SocketAddr) -> Self {
        Self {
            address: Some(to.ip()),
            port: Some(to.port()),
            ..self
        }
    }
}

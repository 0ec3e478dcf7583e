//! State that all connections of a guest share.

use std::net::SocketAddr;
use std::sync::Arc;

use super::lazy_trust::LazyTrust;
use crate::dns::{NameServer, ResolvedNames, Resolver};
use crate::events::{Event, Log, NetworkAction};
use crate::link::Endpoint;
use crate::metering::{Budget, ConnectionBudget, ConnectionsExhausted, Rate};
use crate::policy::{ClientProtocol, Decision, HostName, Policy, PolicyQuery, decide};
use crate::secret::Vault;
use crate::stack::RejectedPacket;

/// State that all connections of a guest share.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    pub(crate) policy: Arc<Policy>,
    pub(super) resolved_names: Arc<ResolvedNames>,
    pub(crate) log: Arc<Log>,
    pub(crate) budget: Arc<Budget>,
    /// Limits new connections per second.
    pub(super) rate: Rate,
    pub(crate) name_server: Arc<NameServer>,
    /// The connections of this guest and others together.
    pub(crate) connections: ConnectionBudget,
    pub(super) vault: Vault,
    pub(super) trust: LazyTrust,
}

impl ConnectionContext {
    /// Creates the state of a new guest. `gateway` is the gateway's end of the guest's link.
    pub(crate) fn new(
        policy: Arc<Policy>,
        vault: Vault,
        resolver: Resolver,
        gateway: Endpoint,
        connections: ConnectionBudget,
    ) -> Self {
        let limits = policy.limits;
        let log = Arc::<Log>::default();
        let resolved_names = Arc::<ResolvedNames>::default();

        // The name server shares the log, and the names that connections are decided by.
        let name_server = NameServer {
            policy: policy.clone(),
            resolved_names: resolved_names.clone(),
            log: log.clone(),
            resolver,
            rate: Rate::new(limits.lookups_per_s.into()),
            gateway,
        };

        Self {
            policy,
            resolved_names,
            log,
            budget: Arc::new(Budget::new(limits)),
            rate: Rate::new(limits.connections_per_s.into()),
            name_server: Arc::new(name_server),
            connections,
            vault,
            trust: LazyTrust::default(),
        }
    }

    /// Records that this connection exceeds the rate of new connections; returns the message.
    pub(super) fn record_rate_limit(&self, to: SocketAddr) -> String {
        let text = format!(
            "more than {} new connections per second; raise `connections_per_s` in the policy's limits",
            self.policy.limits.connections_per_s
        );
        let event = Event::new(
            NetworkAction::Connection,
            false,
            "connection_rate",
            text.clone(),
        );
        self.log.record(event.at(to));
        text
    }

    /// Records that an allowed connection exceeds what this guest and others may have together.
    pub(super) fn record_exhausted(&self, to: SocketAddr, error: ConnectionsExhausted) {
        let event = Event::new(
            NetworkAction::Connection,
            false,
            "connection_budget",
            error.to_string(),
        );
        self.log.record(event.at(to));
    }

    /// Records a packet that the stack rejected.
    pub(crate) fn record_rejected(&self, rejected: RejectedPacket) {
        let query = match rejected {
            RejectedPacket::Datagram(to) => PolicyQuery::Datagram {
                address: to.ip(),
                port: to.port(),
            },
            RejectedPacket::Protocol { number, address } => PolicyQuery::OtherProtocol {
                protocol: number,
                address,
            },
            other => return self.log.record_rejected_packet(other),
        };
        let decision = decide(&self.policy, &query);
        self.log
            .record_decision(NetworkAction::Packet, &self.policy, &decision);
    }

    /// Records that an allowed connection failed. The guest's connection is reset, like one that is not answered.
    pub(super) fn record_unreachable(
        &self,
        destination: &Destination,
        decision: &Decision,
        reason: &str,
    ) {
        let event = Event {
            rule: decision.rule.clone(),
            name: decision.subject.name.clone(),
            ..Event::failed(NetworkAction::Connection, "unreachable", reason.to_string())
        };
        self.log.record(event.at(destination.to));
    }
}

/// Where a connection goes, with the names that its address had when the connection was opened.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) to: SocketAddr,
    pub(super) names: Vec<HostName>,
}

impl Destination {
    /// The query whether the connection may be opened.
    pub(super) fn connect_query(&self) -> PolicyQuery<'_> {
        PolicyQuery::Connect {
            address: self.to.ip(),
            port: self.to.port(),
            names: &self.names,
        }
    }

    /// The query whether a connection that starts like this may continue.
    pub(super) fn first_bytes_query<'a>(&'a self, protocol: ClientProtocol<'a>) -> PolicyQuery<'a> {
        PolicyQuery::FirstBytes {
            address: self.to.ip(),
            port: self.to.port(),
            names: &self.names,
            protocol,
        }
    }
}

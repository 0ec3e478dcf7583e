use std::net::SocketAddr;
use std::sync::Arc;

use super::lazy_trust::LazyTrust;
use crate::dns::{Known, NameServer, Resolver};
use crate::events::{Event, Log, NetworkAction};
use crate::link::Endpoint;
use crate::metering::{Budget, Rate};
use crate::policy::{Decision, HostName, Policy, Question, Said, decide};
use crate::secret::Vault;
use crate::stack::Refused;

/// What all connections of a guest have in common.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) policy: Arc<Policy>,
    pub(super) known: Arc<Known>,
    pub(crate) log: Arc<Log>,
    pub(crate) budget: Arc<Budget>,
    /// New connections.
    pub(super) rate: Rate,
    pub(crate) names: Arc<NameServer>,
    pub(super) vault: Vault,
    pub(super) trust: LazyTrust,
}

impl World {
    /// Nothing has been done in it. `gateway`: the end of the guest's cable that is ours.
    pub(crate) fn new(
        policy: Arc<Policy>,
        vault: Vault,
        resolver: Resolver,
        gateway: Endpoint,
    ) -> Self {
        let limits = policy.limits;
        let (log, known) = (Arc::<Log>::default(), Arc::<Known>::default());
        let names = NameServer {
            policy: policy.clone(),
            known: known.clone(),
            log: log.clone(),
            resolver,
            rate: Rate::new(limits.lookups_per_s.into()),
            refuser: gateway,
        };
        Self {
            policy,
            known,
            log,
            budget: Arc::new(Budget::new(limits)),
            rate: Rate::new(limits.connections_per_s.into()),
            names: Arc::new(names),
            vault,
            trust: LazyTrust::default(),
        }
    }
}

/// Where a connection goes, by what it was known as when it was opened.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) to: SocketAddr,
    pub(super) names: Vec<HostName>,
}

impl Way {
    pub(super) fn connect(&self) -> Question<'_> {
        Question::Connect {
            address: self.to.ip(),
            port: self.to.port(),
            names: &self.names,
        }
    }

    pub(super) fn speak<'a>(&'a self, said: Said<'a>) -> Question<'a> {
        Question::Speak {
            address: self.to.ip(),
            port: self.to.port(),
            names: &self.names,
            said,
        }
    }
}

impl World {
    /// Tells that this connection is one too many in its second.
    pub(super) fn too_many(&self, to: SocketAddr) -> String {
        let text = format!(
            "more than {} new connections a second; raise `connections_per_s` in the policy's limits",
            self.policy.limits.connections_per_s
        );
        let event = Event::new(
            NetworkAction::Connection,
            false,
            "connection_rate",
            text.clone(),
        );
        self.log.add(event.at(to));
        text
    }

    pub(crate) fn refused(&self, refused: Refused) {
        let question = match refused {
            Refused::Datagram(to) => Question::Datagram {
                address: to.ip(),
                port: to.port(),
            },
            Refused::Protocol { number, address } => Question::Other {
                protocol: number,
                address,
            },
            other => return self.log.packet(other),
        };
        let decision = decide(&self.policy, &question);
        self.log
            .decided(NetworkAction::Packet, &self.policy, &decision);
    }

    /// The guest's connection is reset, as one that nobody answers.
    pub(super) fn unreachable(&self, way: &Way, decision: &Decision, why: &str) {
        let event = Event {
            rule: decision.rule.clone(),
            name: decision.subject.name.clone(),
            ..Event::failed(NetworkAction::Connection, "unreachable", why.to_string())
        };
        self.log.add(event.at(way.to));
    }
}

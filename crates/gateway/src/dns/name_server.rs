//! Answers the guest's queries as the policy says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::message::{DnsAnswer, DnsQuery, Family};
use super::resolved_names::ResolvedNames;
use super::resolver::{Resolution, Resolver};
use crate::events::{Event, Log, NetworkAction};
use crate::link::Endpoint;
use crate::metering::Rate;
use crate::policy::{HostName, Policy, PolicyQuery, decide};

/// Minimum and maximum time to live of an answer. The minimum lets a program connect before the answer expires; the
/// maximum limits how long a guest can connect to an address after its name has moved.
const TTL_RANGE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// Time to live of an answer that leads a denied name to the gateway, which explains the denial.
const DENIAL_TTL: Duration = Duration::from_secs(1);

/// The guest's name server.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) policy: Arc<Policy>,
    pub(crate) resolved_names: Arc<ResolvedNames>,
    pub(crate) log: Arc<Log>,
    pub(crate) resolver: Resolver,
    /// Limits lookups per second.
    pub(crate) rate: Rate,
    /// The gateway's end of the link. Denied names resolve to it, so that it can explain the denial.
    pub(crate) gateway: Endpoint,
}

impl NameServer {
    /// Answers one message; `None` if it deserves no response.
    pub(crate) async fn answer(&self, message: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let query = match DnsQuery::parse(message) {
            Ok(query) => query,
            Err(response) => {
                let text = "the message is not a DNS query for one name";
                self.log
                    .record_violation(NetworkAction::Lookup, "malformed_question", text.into());
                return response;
            }
        };

        // The rate counts every query, including repeated and denied ones.
        if !self.rate.try_acquire() {
            let text = format!(
                "more than {} lookups per second; raise `lookups_per_s` in the policy's limits",
                self.policy.limits.lookups_per_s
            );
            self.log
                .record_violation(NetworkAction::Lookup, "lookup_rate", text);
            return query.encode_answer(&DnsAnswer::Refused, over_tcp);
        }

        let answer = match query.name() {
            Some(name) => self.look_up(&query, &name).await,
            None => {
                self.log.record_malformed_name(&query.display_name());
                DnsAnswer::NoName
            }
        };
        query.encode_answer(&answer, over_tcp)
    }

    async fn look_up(&self, query: &DnsQuery, name: &HostName) -> DnsAnswer {
        let decision = decide(&self.policy, &PolicyQuery::Lookup { name });
        self.log
            .record_decision(NetworkAction::Lookup, &self.policy, &decision);

        let family = query.family();
        if !decision.is_allowed() {
            // No name server learns of a denied name. A connection to the gateway's address is refused with the reason.
            let gateway = family.map(|family| self.gateway_address(family));
            return DnsAnswer::Addresses(gateway.into_iter().collect(), DENIAL_TTL);
        }

        // Other records, such as services or keys for encrypted names, are reported as absent.
        let Some(family) = family else {
            return DnsAnswer::Addresses(Vec::new(), TTL_RANGE.0);
        };

        match self.resolver.resolve(name, family).await {
            Resolution::Addresses(addresses, ttl) => {
                self.filter_addresses(name, family, addresses, ttl)
            }
            Resolution::NoName => DnsAnswer::NoName,
            Resolution::Failed(reason) => {
                self.log.record(Event {
                    name: Some(name.clone()),
                    ..Event::failed(NetworkAction::Lookup, "lookup_failed", reason)
                });
                DnsAnswer::Failed
            }
        }
    }

    /// Returns those of a name's addresses that the policy allows, and records them for later connections.
    fn filter_addresses(
        &self,
        name: &HostName,
        family: Family,
        addresses: Vec<IpAddr>,
        ttl: Duration,
    ) -> DnsAnswer {
        let ttl = ttl.clamp(TTL_RANGE.0, TTL_RANGE.1);
        let mut allowed = Vec::with_capacity(addresses.len());
        let mut denial = None;

        for address in addresses {
            let decision = decide(&self.policy, &PolicyQuery::Resolved { name, address });
            if decision.is_allowed() {
                self.resolved_names.record(name, address, ttl);
                allowed.push(address);
            } else {
                self.log
                    .record_decision(NetworkAction::Lookup, &self.policy, &decision);
                denial = Some(decision);
            }
        }

        match denial {
            // All addresses are denied: a connection to the gateway's address is refused with the reason.
            Some(decision) if allowed.is_empty() => {
                self.resolved_names.record_denial(name, decision);
                DnsAnswer::Addresses(vec![self.gateway_address(family)], DENIAL_TTL)
            }
            _ => DnsAnswer::Addresses(allowed, ttl),
        }
    }

    fn gateway_address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.gateway.v4.into(),
            Family::V6 => self.gateway.v6.into(),
        }
    }
}

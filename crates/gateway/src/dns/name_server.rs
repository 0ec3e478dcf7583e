use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::message::{Answer, Asked, Family};
use super::resolved_names::Known;
use super::resolver::{Found, Resolver};
use crate::events::{Event, Log, NetworkAction};
use crate::link::Endpoint;
use crate::metering::Rate;
use crate::policy::{HostName, Policy, Question, decide};

/// How long a guest is told to believe an answer: no shorter, so that a program's connection meets it, and no
/// longer, so that what it may reach stays what names say.
const LIFETIMES: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// How long it is told that a denied name leads to the refusal.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(1);

/// Answers a guest's questions.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) policy: Arc<Policy>,
    pub(crate) known: Arc<Known>,
    pub(crate) log: Arc<Log>,
    pub(crate) resolver: Resolver,
    pub(crate) rate: Rate,
    /// Who tells a guest that connects to a denied name why it is denied.
    pub(crate) refuser: Endpoint,
}

impl NameServer {
    /// Answers one message; `None`: nothing is to be said.
    pub(crate) async fn answer(&self, message: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let asked = match Asked::parse(message) {
            Ok(asked) => asked,
            Err(refusal) => {
                let text = "what is no question about one name";
                self.log
                    .limited(NetworkAction::Lookup, "malformed_question", text.into());
                return refusal;
            }
        };
        if !self.rate.take() {
            let text = format!(
                "more than {} lookups a second; raise `lookups_per_s` in the policy's limits",
                self.policy.limits.lookups_per_s
            );
            self.log.limited(NetworkAction::Lookup, "lookup_rate", text);
            return asked.answer(&Answer::Refused, by_tcp);
        }
        let answer = match asked.name() {
            Some(name) => self.look_up(&asked, &name).await,
            None => {
                self.log.malformed_name(&asked.text());
                Answer::NoName
            }
        };
        asked.answer(&answer, by_tcp)
    }

    async fn look_up(&self, asked: &Asked, name: &HostName) -> Answer {
        let decision = decide(&self.policy, &Question::Lookup { name });
        self.log
            .decided(NetworkAction::Lookup, &self.policy, &decision);
        let family = asked.family();
        if !decision.is_allowed() {
            // A connection there is told why; nobody else is asked about the name.
            let refuser = family.map(|family| self.refuser(family));
            return Answer::Addresses(refuser.into_iter().collect(), REFUSAL_LIFETIME);
        }
        // Services, keys for encrypted names and the like: such a name has none.
        let Some(family) = family else {
            return Answer::Addresses(Vec::new(), LIFETIMES.0);
        };
        match self.resolver.find(name, family).await {
            Found::Addresses(addresses, lifetime) => self.tell(name, family, addresses, lifetime),
            Found::NoName => Answer::NoName,
            Found::Failed(why) => {
                self.log.add(Event {
                    name: Some(name.clone()),
                    ..Event::failed(NetworkAction::Lookup, "lookup_failed", why)
                });
                Answer::Failed
            }
        }
    }

    /// Those of a name's addresses that the guest may be told.
    fn tell(
        &self,
        name: &HostName,
        family: Family,
        found: Vec<IpAddr>,
        lifetime: Duration,
    ) -> Answer {
        let lifetime = lifetime.clamp(LIFETIMES.0, LIFETIMES.1);
        let mut told = Vec::with_capacity(found.len());
        let mut denied = None;
        for address in found {
            let decision = decide(&self.policy, &Question::Resolved { name, address });
            if decision.is_allowed() {
                self.known.learn(name, address, lifetime);
                told.push(address);
            } else {
                self.log
                    .decided(NetworkAction::Lookup, &self.policy, &decision);
                denied = Some(decision);
            }
        }
        match denied {
            // A connection there is told why.
            Some(decision) if told.is_empty() => {
                self.known.refuse(name, decision);
                Answer::Addresses(vec![self.refuser(family)], REFUSAL_LIFETIME)
            }
            _ => Answer::Addresses(told, lifetime),
        }
    }

    fn refuser(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.refuser.v4.into(),
            Family::V6 => self.refuser.v6.into(),
        }
    }
}

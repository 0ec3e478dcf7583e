use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::mpsc;

use crate::policy::{Decision, HostName, Policy, RuleId};
use crate::stack::Refused;

/// Events that wait for a listener; of those that come when they are full only the number is told.
const EVENTS: usize = 1024;

/// Different denials that a summary holds.
const DENIALS: usize = 64;

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
}

/// A denial, and how often it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// The first of them.
    #[serde(flatten)]
    pub event: Event,
    /// How many there were.
    pub times: u64,
}

/// All that a guest did on its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Connections that were let through.
    pub connections: u64,
    /// Bytes from the guest.
    pub bytes_up: u64,
    /// Bytes to the guest.
    pub bytes_down: u64,
    /// Denials, in the order in which they first came; at most 64 different ones.
    pub denials: Vec<Denial>,
    /// Denials that are not among these.
    pub more_denials: u64,
    /// Events that a listener has missed, since it did not take them in time.
    pub missed_events: u64,
}

/// What is told of a guest's network.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    summary: Summary,
    /// Where each denial stands in the summary.
    places: HashMap<Key, usize>,
    listener: Option<mpsc::Sender<Event>>,
}

/// What makes two denials the same.
type Key = (
    NetworkAction,
    &'static str,
    Option<HostName>,
    Option<IpAddr>,
    Option<u16>,
);

impl Log {
    /// All events from now on; there is one listener at a time.
    pub(crate) fn listen(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        self.lock().listener = Some(sender);
        receiver
    }

    pub(crate) fn summary(&self) -> Summary {
        self.lock().summary.clone()
    }

    pub(crate) fn connected(&self) {
        self.lock().summary.connections += 1;
    }

    pub(crate) fn decided(&self, what: NetworkAction, policy: &Policy, decision: &Decision) {
        self.add(Event::decided(what, policy, decision));
    }

    /// Something came too often, too much, or as what it is not.
    pub(crate) fn limited(&self, what: NetworkAction, code: &'static str, message: String) {
        self.add(Event::new(what, false, code, message));
    }

    pub(crate) fn malformed_name(&self, text: &str) {
        /// A guest can write long ones.
        const CHARACTERS: usize = 80;
        let text: String = text.chars().take(CHARACTERS).collect();
        let message = format!("`{}` is the name of no host", text.escape_default());
        self.add(Event::new(
            NetworkAction::Lookup,
            false,
            "no_host_name",
            message,
        ));
    }

    /// What the stack has refused by itself.
    pub(crate) fn packet(&self, refused: Refused) {
        let (code, message, to) = match refused {
            Refused::Fragment(to) => (
                "fragment",
                "parts of packets are never passed on; the path takes whole ones",
                Some(to),
            ),
            Refused::Source(from) => (
                "source_address",
                "a packet from an address that is not the guest's",
                Some(from),
            ),
            Refused::Full(to) => (
                "connections",
                "as many connections are open as the policy's limit `connections` says",
                Some(to.ip()),
            ),
            _ => ("malformed", "what is no packet of IPv4 or IPv6", None),
        };
        self.add(Event {
            address: to,
            ..Event::new(NetworkAction::Packet, false, code, message.into())
        });
    }

    pub(crate) fn add(&self, event: Event) {
        let Event {
            what,
            allowed,
            code,
            ..
        } = &event;
        let (name, address, port) = (&event.name, &event.address, &event.port);
        tracing::info!(
            ?what,
            allowed,
            code,
            ?name,
            ?address,
            ?port,
            message = event.message
        );
        let mut inner = self.lock();
        if !event.allowed {
            inner.deny(&event);
        }
        let Some(listener) = inner.listener.clone() else {
            return;
        };
        match listener.try_reserve() {
            Ok(room) => room.send(event),
            Err(mpsc::error::TrySendError::Full(())) => inner.summary.missed_events += 1,
            Err(mpsc::error::TrySendError::Closed(())) => inner.listener = None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn deny(&mut self, event: &Event) {
        let key = (
            event.what,
            event.code,
            event.name.clone(),
            event.address,
            event.port,
        );
        let Self {
            summary, places, ..
        } = self;
        if let Some(place) = places.get(&key) {
            summary.denials[*place].times += 1;
        } else if summary.denials.len() < DENIALS {
            places.insert(key, summary.denials.len());
            let event = event.clone();
            summary.denials.push(Denial { event, times: 1 });
        } else {
            summary.more_denials += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(port: u16) -> Event {
        Event {
            port: Some(port),
            ..Event::new(NetworkAction::Connection, false, "no_rule", "no".into())
        }
    }

    #[test]
    fn denials_are_counted_and_bounded() {
        let log = Log::default();
        for port in 0..100 {
            log.add(denied(port));
            log.add(denied(port));
        }
        let summary = log.summary();
        assert_eq!(
            (summary.denials.len(), summary.denials[3].times),
            (DENIALS, 2)
        );
        assert_eq!(summary.more_denials, 2 * (100 - DENIALS as u64));
    }

    #[test]
    fn a_listener_that_is_slow_is_told_what_it_missed() {
        let log = Log::default();
        let mut events = log.listen();
        for _ in 0..EVENTS + 3 {
            log.add(denied(1));
        }
        assert_eq!(log.summary().missed_events, 3);
        assert_eq!(events.try_recv().unwrap().port, Some(1));
        drop(events);
        log.add(denied(1));
        assert_eq!(log.summary().missed_events, 3);
    }
}

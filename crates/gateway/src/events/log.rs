use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::event::{Event, NetworkAction};
use super::summary::{Denial, Summary};
use crate::policy::{Decision, HostName, Policy};
use crate::stack::Refused;

/// Events that wait for a listener; of those that come when they are full only the number is told.
const EVENTS: usize = 1024;

/// Different denials that a summary holds.
const DENIALS: usize = 64;

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

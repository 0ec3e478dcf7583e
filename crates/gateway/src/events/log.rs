//! Collects events: passes them to a receiver and summarizes them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::event::{Event, NetworkAction};
use super::line_limit::{Admission, LineLimit};
use super::summary::{Denial, Summary};
use crate::policy::{Decision, HostName, Policy};
use crate::stack::RejectedPacket;

/// Maximum number of events that wait for the receiver. Further ones are dropped and only counted.
const MAX_QUEUED_EVENTS: usize = 1024;

/// Maximum number of distinct denials in a summary.
const MAX_DENIALS: usize = 64;

/// Maximum number of characters of an invalid name that a message repeats. A guest can send long ones.
const MAX_NAME_CHARS: usize = 80;

/// The events of a guest's network.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    summary: Summary,
    /// The index of each denial in the summary.
    denial_indices: HashMap<DenialKey, usize>,
    receiver: Option<mpsc::Sender<Event>>,
    lines: LineLimit,
}

/// Two denials with equal keys count as one.
type DenialKey = (
    NetworkAction,
    &'static str,
    Option<HostName>,
    Option<IpAddr>,
    Option<u16>,
);

impl Log {
    /// Returns a receiver of all events from now on. There is one receiver at a time.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_EVENTS);
        self.lock().receiver = Some(sender);
        receiver
    }

    pub(crate) fn summary(&self) -> Summary {
        self.lock().summary.clone()
    }

    /// Counts an established connection.
    pub(crate) fn count_connection(&self) {
        self.lock().summary.connections += 1;
    }

    pub(crate) fn record_decision(
        &self,
        what: NetworkAction,
        policy: &Policy,
        decision: &Decision,
    ) {
        self.record(Event::decided(what, policy, decision));
    }

    /// Records something that is denied by a limit, or because it is malformed.
    pub(crate) fn record_violation(
        &self,
        what: NetworkAction,
        code: &'static str,
        message: String,
    ) {
        self.record(Event::new(what, false, code, message));
    }

    pub(crate) fn record_malformed_name(&self, text: &str) {
        let text: String = text.chars().take(MAX_NAME_CHARS).collect();
        let message = format!("`{}` is not a valid host name", text.escape_default());
        self.record_violation(NetworkAction::Lookup, "no_host_name", message);
    }

    /// Records a packet that the stack rejected without asking the policy.
    pub(crate) fn record_rejected_packet(&self, rejected: RejectedPacket) {
        let (code, message, address) = match rejected {
            RejectedPacket::Fragment(to) => (
                "fragment",
                "fragmented packets are never forwarded; the link accepts whole packets of its MTU",
                Some(to),
            ),
            RejectedPacket::Source(from) => (
                "source_address",
                "the packet's source address is not the guest's",
                Some(from),
            ),
            RejectedPacket::Full(to) => (
                "connections",
                "the maximum number of open connections is reached; raise `connections` in the policy's limits",
                Some(to.ip()),
            ),
            _ => (
                "malformed",
                "the frame does not contain a valid IPv4 or IPv6 packet",
                None,
            ),
        };
        self.record(Event {
            address,
            ..Event::new(NetworkAction::Packet, false, code, message.into())
        });
    }

    /// Records an event: writes it to the trace, counts it if it is a denial, and passes it to the receiver.
    pub(crate) fn record(&self, event: Event) {
        let mut state = self.lock();
        let admission = state.lines.admit();
        if let Admission::Write { left_out } = admission {
            trace(&event, left_out);
        }

        // Count denials, even if there is no receiver.
        if !event.allowed {
            state.count_denial(&event);
        }

        // Never wait for a slow receiver: it misses events instead.
        let Some(receiver) = state.receiver.clone() else {
            return;
        };
        match receiver.try_reserve() {
            Ok(permit) => permit.send(event),
            Err(mpsc::error::TrySendError::Full(())) => state.summary.missed_events += 1,
            Err(mpsc::error::TrySendError::Closed(())) => state.receiver = None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line to the trace, and before it how many were left out.
fn trace(event: &Event, left_out: u64) {
    let Event {
        what,
        allowed,
        code,
        ..
    } = event;
    if left_out > 0 {
        tracing::warn!(
            left_out,
            "a guest caused too many network events to log all of them"
        );
    }

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
}

impl Drop for Log {
    fn drop(&mut self) {
        let left_out = self.lock().lines.left_out();
        if left_out > 0 {
            tracing::warn!(
                left_out,
                "a guest caused too many network events to log all of them"
            );
        }
    }
}

impl State {
    fn count_denial(&mut self, event: &Event) {
        let key = (
            event.what,
            event.code,
            event.name.clone(),
            event.address,
            event.port,
        );
        let Self {
            summary,
            denial_indices,
            ..
        } = self;

        if let Some(index) = denial_indices.get(&key) {
            summary.denials[*index].times += 1;
        } else if summary.denials.len() < MAX_DENIALS {
            denial_indices.insert(key, summary.denials.len());
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
    use crate::events::line_limit::MAX_LINES;

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
            log.record(denied(port));
            log.record(denied(port));
        }
        let summary = log.summary();
        assert_eq!(
            (summary.denials.len(), summary.denials[3].times),
            (MAX_DENIALS, 2)
        );
        assert_eq!(summary.more_denials, 2 * (100 - MAX_DENIALS as u64));
    }

    /// Counts the lines that a flood of events writes.
    #[derive(Clone, Default)]
    struct LineCounter(std::sync::Arc<std::sync::atomic::AtomicU64>);

    impl tracing::Subscriber for LineCounter {
        fn enabled(&self, _metadata: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _span: &tracing::span::Id, _from: &tracing::span::Id) {}

        fn event(&self, _event: &tracing::Event<'_>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }

        fn enter(&self, _span: &tracing::span::Id) {}

        fn exit(&self, _span: &tracing::span::Id) {}
    }

    #[test]
    fn a_flood_of_events_writes_few_lines_and_is_counted_in_full() {
        let lines = LineCounter::default();
        tracing::subscriber::with_default(lines.clone(), || {
            let log = Log::default();
            for _ in 0..10_000 {
                log.record(denied(1));
            }
            assert_eq!(log.summary().denials[0].times, 10_000);
            assert_eq!(log.lock().lines.left_out(), 10_000 - MAX_LINES);
        });

        // One more line says how many were left out. It is missing if another test, which has no subscriber, writes that
        // line for the first time just now.
        let lines = lines.0.load(std::sync::atomic::Ordering::Relaxed);
        assert!(lines <= MAX_LINES + 1, "{lines}");
    }

    #[test]
    fn events_that_a_slow_receiver_misses_are_counted() {
        let log = Log::default();
        let mut events = log.subscribe();
        for _ in 0..MAX_QUEUED_EVENTS + 3 {
            log.record(denied(1));
        }
        assert_eq!(log.summary().missed_events, 3);
        assert_eq!(events.try_recv().unwrap().port, Some(1));

        drop(events);
        log.record(denied(1));
        assert_eq!(log.summary().missed_events, 3);
    }
}

//! The events of a run or a sandbox: the latest ones are kept for subscribers that come, go and reconnect.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::sync::lock;

/// One event of an [`EventLog`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    /// The sequence number, from 1. A `gap` has no number; its `id` is 0.
    pub id: u64,
    /// The event's name, such as `stdout` or `ended`.
    pub name: &'static str,
    /// The event's data: JSON on one line.
    pub data: Arc<str>,
}

/// Memory that an event takes beside its data, in bytes. A guest can send millions of small events.
const EVENT_OVERHEAD_BYTES: usize = 96;

impl LoggedEvent {
    fn cost(&self) -> usize {
        self.data.len() + EVENT_OVERHEAD_BYTES
    }
}

/// A bounded log of numbered events with any number of subscribers.
///
/// A writer that may not lose unread events calls `wait_for_capacity` before it appends;
/// otherwise the oldest events are dropped and subscribers receive a `gap`.
#[derive(Debug)]
pub struct EventLog {
    inner: Mutex<Inner>,
    /// A counter of changes, which subscribers and writers wait on.
    changed: watch::Sender<u64>,
    subscribers: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<LoggedEvent>,
    bytes: usize,
    max_bytes: usize,
    /// The number of the last event that was appended.
    last_id: u64,
    /// The highest number that any subscriber has read, or that was dropped unread.
    read_id: u64,
    unread_bytes: usize,
    /// Callers that only wait for the end, and so need no event to be kept.
    waiters: usize,
    is_closed: bool,
}

impl EventLog {
    /// Creates a log that keeps at most `max_bytes` of events.
    pub(crate) fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                max_bytes,
                ..Inner::default()
            }),
            changed: watch::Sender::new(0),
            subscribers: watch::Sender::new(0),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Appends an event, and drops the oldest ones if the log is full.
    pub(crate) fn append(&self, name: &'static str, data: String) {
        let mut inner = self.inner();
        if inner.is_closed {
            return;
        }

        inner.last_id += 1;
        let event = LoggedEvent {
            id: inner.last_id,
            name,
            data: data.into(),
        };
        inner.bytes += event.cost();
        inner.unread_bytes += event.cost();
        inner.events.push_back(event);

        // Make room. The newest event stays even if it alone exceeds the limit.
        while inner.bytes > inner.max_bytes && inner.events.len() > 1 {
            let Some(oldest) = inner.events.pop_front() else {
                break;
            };

            inner.bytes -= oldest.cost();
            if oldest.id > inner.read_id {
                inner.read_id = oldest.id;
                inner.unread_bytes -= oldest.cost();
            }
        }

        drop(inner);
        self.notify();
    }

    /// Appends the last event, and closes the log.
    pub(crate) fn close(&self, name: &'static str, data: String) {
        self.append(name, data);
        self.inner().is_closed = true;
        self.notify();
    }

    /// Drops all events of a log that is closed but the last one.
    pub(crate) fn discard(&self) {
        let mut inner = self.inner();
        let dropped = inner.events.len().saturating_sub(1);
        inner.events.drain(..dropped);
        inner.bytes = inner.events.iter().map(LoggedEvent::cost).sum();
        inner.unread_bytes = inner.bytes;
        inner.read_id = inner.last_id.saturating_sub(1);
    }

    /// Waits until an event with `bytes` of data fits without dropping an unread one.
    pub(crate) async fn wait_for_capacity(&self, bytes: usize) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            {
                let inner = self.inner();
                let needed = inner.unread_bytes + bytes + EVENT_OVERHEAD_BYTES;
                let fits = needed <= inner.max_bytes || inner.unread_bytes == 0;
                if fits || inner.waiters > 0 || inner.is_closed {
                    return;
                }
            }

            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns how many bytes of events are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.inner().bytes
    }

    /// Returns the number of subscribers, waiters included, as a value to watch.
    pub(crate) fn subscriber_count(&self) -> watch::Receiver<usize> {
        self.subscribers.subscribe()
    }

    /// Subscribes to the events after number `after`; 0 starts with the first event.
    pub fn subscribe(self: &Arc<Self>, after: u64) -> EventSubscriber {
        self.subscribers.send_modify(|count| *count += 1);
        let last_id = self.inner().last_id;
        EventSubscriber {
            log: self.clone(),
            after: after.min(last_id),
            changed: self.changed.subscribe(),
        }
    }

    /// Registers a caller that waits for the end and reads no events. While one exists, the log never is full.
    pub(crate) fn add_waiter(self: &Arc<Self>) -> CompletionWaiter {
        self.inner().waiters += 1;
        self.subscribers.send_modify(|count| *count += 1);
        self.notify();
        CompletionWaiter(self.clone())
    }
}

/// The registration of a caller that waits for the end; dropping it unregisters the caller.
#[derive(Debug)]
pub(crate) struct CompletionWaiter(Arc<EventLog>);

impl Drop for CompletionWaiter {
    fn drop(&mut self) {
        self.0.inner().waiters -= 1;
        self.0.subscribers.send_modify(|count| *count -= 1);
    }
}

/// A reader of an [`EventLog`]; dropping it unsubscribes.
#[derive(Debug)]
pub struct EventSubscriber {
    log: Arc<EventLog>,
    after: u64,
    changed: watch::Receiver<u64>,
}

impl Drop for EventSubscriber {
    fn drop(&mut self) {
        self.log.subscribers.send_modify(|count| *count -= 1);
    }
}

impl EventSubscriber {
    /// Waits for the next event, and returns `None` after the last one.
    ///
    /// If the log has dropped events that this subscriber did not read, the next event is a `gap` with the numbers
    /// before and after it.
    pub async fn next(&mut self) -> Option<LoggedEvent> {
        loop {
            self.changed.mark_unchanged();
            match self.poll() {
                NextEvent::Ready(event) => return Some(event),
                NextEvent::Closed => return None,
                NextEvent::Pending => self.changed.changed().await.ok()?,
            }
        }
    }

    fn poll(&mut self) -> NextEvent {
        let mut inner = self.log.inner();
        let next = self.after.saturating_add(1);
        let Some(first) = inner.events.front().map(|event| event.id) else {
            return NextEvent::none(&inner);
        };

        // The next event was dropped: report the gap, then continue with the first event that is kept.
        if next < first {
            let data = format!("{{\"after\":{},\"next\":{first}}}", self.after);
            self.after = first - 1;
            return NextEvent::Ready(LoggedEvent {
                id: 0,
                name: "gap",
                data: data.into(),
            });
        }

        let index = usize::try_from(next - first).unwrap_or(usize::MAX);
        let Some(event) = inner.events.get(index).cloned() else {
            return NextEvent::none(&inner);
        };
        self.after = event.id;

        // The first subscriber to read an event makes its bytes available to the writer.
        let read_id = inner.read_id;
        if event.id > read_id {
            let unread = inner.events.iter().skip_while(|one| one.id <= read_id);
            let newly_read = unread.take_while(|one| one.id <= event.id);
            let bytes: usize = newly_read.map(LoggedEvent::cost).sum();
            inner.read_id = event.id;
            inner.unread_bytes -= bytes;
            drop(inner);
            self.log.notify();
        }

        NextEvent::Ready(event)
    }
}

/// The result of looking for the next event.
enum NextEvent {
    Ready(LoggedEvent),
    Closed,
    Pending,
}

impl NextEvent {
    fn none(inner: &Inner) -> Self {
        if inner.is_closed {
            Self::Closed
        } else {
            Self::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn read_all(mut subscriber: EventSubscriber) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Some(event) = subscriber.next().await {
            all.push((event.id, format!("{} {}", event.name, event.data)));
        }
        all
    }

    #[tokio::test]
    async fn a_late_subscriber_gets_the_rest_after_a_gap() {
        // The log holds four letters and an end.
        let log = EventLog::new(5 * EVENT_OVERHEAD_BYTES + 4);
        for letter in ["a", "b", "c", "d", "e"] {
            log.append("x", letter.into());
        }

        log.close("ended", String::new());

        let rest = read_all(log.subscribe(3)).await;
        assert_eq!(rest.len(), 3);
        assert_eq!(rest[0], (4, "x d".into()));

        let with_gap = read_all(log.subscribe(0)).await;
        assert_eq!(with_gap[0], (0, "gap {\"after\":0,\"next\":2}".into()));
        assert_eq!(with_gap[1], (2, "x b".into()));

        assert!(read_all(log.subscribe(6)).await.is_empty());
        assert!(read_all(log.subscribe(u64::MAX - 1)).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unread_log_is_full_until_a_caller_reads_or_waits() {
        let log = EventLog::new(EVENT_OVERHEAD_BYTES + 4);
        log.append("x", "abcd".into());
        let full = tokio::time::timeout(Duration::from_secs(1), log.wait_for_capacity(1)).await;
        assert!(full.is_err());

        let mut subscriber = log.subscribe(0);
        let ((), event) = tokio::join!(log.wait_for_capacity(1), subscriber.next());
        assert_eq!(event.map(|event| event.id), Some(1));

        log.append("x", "abcd".into());
        drop(subscriber);
        let _waiter = log.add_waiter();
        log.wait_for_capacity(100).await;
        assert_eq!(*log.subscriber_count().borrow(), 1);
    }
}

//! What a run or a sandbox has told, as far back as there is room, for followers who come and go.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Something that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its number, from 1; 0 = a gap, which has none.
    pub id: u64,
    /// What it is.
    pub name: &'static str,
    /// JSON on one line.
    pub data: Arc<str>,
}

/// What an event costs beside its data, in bytes: a guest may tell millions of small ones.
const EVENT_COST: usize = 96;

impl Told {
    fn cost(&self) -> usize {
        self.data.len() + EVENT_COST
    }
}

/// Events with numbers, the latest of which are kept.
#[derive(Debug)]
pub struct Ring {
    inner: Mutex<Inner>,
    /// Counts changes; followers and the one who tells wait for it.
    changed: watch::Sender<u64>,
    followers: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<Told>,
    bytes: usize,
    most: usize,
    /// The number of the last event.
    last: u64,
    /// Up to here somebody has read.
    read: u64,
    unread: usize,
    /// Somebody waits for the end alone, and needs no event to be kept.
    waiters: usize,
    closed: bool,
}

impl Ring {
    /// One that keeps this many bytes.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                most,
                ..Inner::default()
            }),
            changed: watch::Sender::new(0),
            followers: watch::Sender::new(0),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Adds an event; the oldest make room.
    pub(crate) fn tell(&self, name: &'static str, data: String) {
        let mut inner = self.inner();
        if inner.closed {
            return;
        }
        inner.last += 1;
        let told = Told {
            id: inner.last,
            name,
            data: data.into(),
        };
        inner.bytes += told.cost();
        inner.unread += told.cost();
        inner.kept.push_back(told);
        while inner.bytes > inner.most && inner.kept.len() > 1 {
            let Some(oldest) = inner.kept.pop_front() else {
                break;
            };
            inner.bytes -= oldest.cost();
            if oldest.id > inner.read {
                inner.read = oldest.id;
                inner.unread -= oldest.cost();
            }
        }
        drop(inner);
        self.wake();
    }

    /// The last event, after which nothing is told.
    pub(crate) fn close(&self, name: &'static str, data: String) {
        self.tell(name, data);
        self.inner().closed = true;
        self.wake();
    }

    /// Waits until an event of this many bytes can be told without that an unread one has to go.
    pub(crate) async fn room(&self, bytes: usize) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            {
                let inner = self.inner();
                let fits = inner.unread + bytes + EVENT_COST <= inner.most || inner.unread == 0;
                if fits || inner.waiters > 0 || inner.closed {
                    return;
                }
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Bytes of events that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.inner().bytes
    }

    /// How many follow it, those who wait for the end included.
    pub(crate) fn followers(&self) -> watch::Receiver<usize> {
        self.followers.subscribe()
    }

    /// Follows it after this number: 0 = from its beginning.
    pub fn follow(self: &Arc<Self>, after: u64) -> Follower {
        self.followers.send_modify(|count| *count += 1);
        let last = self.inner().last;
        Follower {
            ring: self.clone(),
            after: after.min(last),
            changed: self.changed.subscribe(),
        }
    }

    /// Counts as somebody who takes whatever comes.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiter {
        self.inner().waiters += 1;
        self.followers.send_modify(|count| *count += 1);
        self.wake();
        Waiter(self.clone())
    }
}

/// Somebody who waits for the end.
#[derive(Debug)]
pub(crate) struct Waiter(Arc<Ring>);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.inner().waiters -= 1;
        self.0.followers.send_modify(|count| *count -= 1);
    }
}

/// Somebody who reads. Dropping it is going away.
#[derive(Debug)]
pub struct Follower {
    ring: Arc<Ring>,
    after: u64,
    changed: watch::Receiver<u64>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.ring.followers.send_modify(|count| *count -= 1);
    }
}

impl Follower {
    /// The next event; a `gap` first where it is not kept any more; none after the last one.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            self.changed.mark_unchanged();
            match self.now() {
                Now::Told(told) => return Some(told),
                Now::Closed => return None,
                Now::Wait => self.changed.changed().await.ok()?,
            }
        }
    }

    fn now(&mut self) -> Now {
        let mut inner = self.ring.inner();
        let next = self.after.saturating_add(1);
        let Some(first) = inner.kept.front().map(|told| told.id) else {
            return if inner.closed { Now::Closed } else { Now::Wait };
        };
        if next < first {
            let data = format!("{{\"after\":{},\"next\":{first}}}", self.after);
            self.after = first - 1;
            return Now::Told(Told {
                id: 0,
                name: "gap",
                data: data.into(),
            });
        }
        let at = usize::try_from(next - first).unwrap_or(usize::MAX);
        let Some(told) = inner.kept.get(at).cloned() else {
            return if inner.closed { Now::Closed } else { Now::Wait };
        };
        self.after = told.id;
        let was = inner.read;
        if told.id > was {
            let read = inner.kept.iter().skip_while(|one| one.id <= was);
            let read = read.take_while(|one| one.id <= told.id);
            let bytes: usize = read.map(Told::cost).sum();
            inner.read = told.id;
            inner.unread -= bytes;
            drop(inner);
            self.ring.wake();
        }
        Now::Told(told)
    }
}

enum Now {
    Told(Told),
    Closed,
    Wait,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn all(mut follower: Follower) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Some(told) = follower.next().await {
            all.push((told.id, format!("{} {}", told.name, told.data)));
        }
        all
    }

    #[tokio::test]
    async fn who_comes_late_gets_the_rest_and_is_told_of_a_gap() {
        // Room for four letters and an end.
        let ring = Ring::new(5 * EVENT_COST + 4);
        for word in ["a", "b", "c", "d", "e"] {
            ring.tell("x", word.into());
        }
        ring.close("ended", String::new());
        let kept = all(ring.follow(3)).await;
        assert_eq!(kept.len(), 3);
        assert_eq!(kept[0], (4, "x d".into()));
        let with_gap = all(ring.follow(0)).await;
        assert_eq!(with_gap[0], (0, "gap {\"after\":0,\"next\":2}".into()));
        assert_eq!(with_gap[1], (2, "x b".into()));
        assert!(all(ring.follow(6)).await.is_empty());
        assert!(all(ring.follow(u64::MAX - 1)).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unread_ring_has_no_room_until_somebody_reads_or_waits() {
        let ring = Ring::new(EVENT_COST + 4);
        ring.tell("x", "abcd".into());
        let full = tokio::time::timeout(Duration::from_secs(1), ring.room(1)).await;
        assert!(full.is_err());
        let mut follower = ring.follow(0);
        let (_, told) = tokio::join!(ring.room(1), follower.next());
        assert_eq!(told.map(|told| told.id), Some(1));
        ring.tell("x", "abcd".into());
        drop(follower);
        let _waiter = ring.wait();
        ring.room(100).await;
        assert_eq!(*ring.followers().borrow(), 1);
    }
}

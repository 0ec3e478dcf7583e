//! The open connections of one transport: how many there may be, and which one gives way to a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::sync::lock;

/// The part of all connections that one key, or one address without a key, may have.
const SHARE: usize = 4;

/// The open connections of one transport.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    by_id: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    peer: Option<IpAddr>,
    /// The owner of its requests; `None` as long as no request had a valid key.
    owner: Option<Owner>,
    /// Requests whose responses are not complete.
    requests: usize,
    last_used: Instant,
    closed: CancellationToken,
}

/// An open connection. It counts until the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: u64,
    all: Arc<Connections>,
    closed: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        lock(&self.all.open).by_id.remove(&self.id);
    }
}

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: Mutex::default(),
        })
    }

    /// How many connections one key, or one address without a key, may have.
    fn share(&self) -> usize {
        (self.max / SHARE).max(1)
    }

    /// Counts a new connection, and closes an older one if there are too many: of the same address without a key, of any
    /// address without a key, or of the key with the most connections, the one that was unused for longest.
    ///
    /// Returns `None` if there are too many and all of them are in use.
    pub(super) fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Connection> {
        let mut open = lock(&self.open);

        // Without a key, an address can only displace its own connections.
        let is_own = |entry: &Entry| entry.owner.is_none() && entry.peer == peer;
        if peer.is_some() && open.count(is_own) >= self.share() {
            open.close_oldest(is_own);
        }

        if open.count(|_| true) >= self.max
            && !open.close_oldest(|entry| entry.owner.is_none())
            && !open.close_idle_of_largest_owner()
        {
            return None;
        }

        open.last_id += 1;
        let (id, closed) = (open.last_id, CancellationToken::new());
        let entry = Entry {
            peer,
            owner: None,
            requests: 0,
            last_used: Instant::now(),
            closed: closed.clone(),
        };
        open.by_id.insert(id, entry);

        Some(Connection(Arc::new(Inner {
            id,
            all: self.clone(),
            closed,
        })))
    }

    /// Closes a connection that is not in use, since the process has no descriptor for a new one.
    pub(super) fn close_unused(&self) {
        let open = lock(&self.open);
        if !open.close_oldest(|entry| entry.owner.is_none()) {
            open.close_idle_of_largest_owner();
        }
    }
}

impl Open {
    /// Counts the connections that are not being closed.
    fn count(&self, is_counted: impl Fn(&Entry) -> bool) -> usize {
        let open = self.by_id.values().filter(|one| !one.closed.is_cancelled());
        open.filter(|entry| is_counted(entry)).count()
    }

    /// Closes the connection that was unused for longest; returns whether there is one.
    fn close_oldest(&self, may_close: impl Fn(&Entry) -> bool) -> bool {
        let open = self.by_id.values().filter(|one| !one.closed.is_cancelled());
        let oldest = open
            .filter(|entry| may_close(entry))
            .min_by_key(|entry| entry.last_used);

        oldest.inspect(|entry| entry.closed.cancel()).is_some()
    }

    fn close_idle_of_largest_owner(&self) -> bool {
        let mut counts: HashMap<&Owner, usize> = HashMap::new();
        let idle = self.by_id.values().filter(|entry| entry.is_idle());
        for owner in idle.filter_map(|entry| entry.owner.as_ref()) {
            *counts.entry(owner).or_default() += 1;
        }

        let Some((owner, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else {
            return false;
        };
        self.close_oldest(|entry| entry.is_idle() && entry.owner.as_ref() == Some(owner))
    }
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.requests == 0 && !self.closed.is_cancelled()
    }
}

impl Connection {
    /// Waits until the connection must be closed.
    pub(super) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Counts a request of this owner as in use until the guard is dropped.
    ///
    /// # Errors
    /// [`ApiErrorKind::Busy`] if the owner has too many connections, all with requests.
    pub(super) fn start_request(&self, owner: &Owner) -> Result<RequestGuard, ApiError> {
        let Inner { id, all, .. } = &*self.0;
        let mut open = lock(&all.open);

        let is_own = |entry: &Entry| entry.owner.as_ref() == Some(owner);
        let is_new = open.by_id.get(id).is_some_and(|entry| !is_own(entry));
        let max = all.share();

        if is_new
            && !owner.is_local()
            && open.count(is_own) >= max
            && !open.close_oldest(|entry| is_own(entry) && entry.is_idle())
        {
            let message = format!(
                "limit of {max} concurrent connections per key reached; send several requests over one connection, and read \
                 or close the responses that are open"
            );
            return Err(ApiError::new(ApiErrorKind::Busy, message));
        }

        if let Some(entry) = open.by_id.get_mut(id) {
            entry.owner = Some(owner.clone());
            entry.requests += 1;
        }

        Ok(RequestGuard(self.clone()))
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct RequestGuard(Connection);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let Inner { id, all, .. } = &*self.0.0;
        if let Some(entry) = lock(&all.open).by_id.get_mut(id) {
            entry.requests -= 1;
            entry.last_used = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn is_closed(connection: &Connection) -> bool {
        connection.0.closed.is_cancelled()
    }

    async fn tick() {
        tokio::time::advance(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_displaces_the_oldest_without_a_key() {
        let all = Connections::new(8);
        let keys = ["a", "b"].map(Owner::key);

        // Four with keys, four without, from four addresses.
        let mut open = Vec::new();
        for n in 0..8_u8 {
            let connection = all.admit(Some([10, 0, 0, n / 2].into())).unwrap();
            if n % 2 == 0 {
                drop(connection.start_request(&keys[usize::from(n / 4)]).unwrap());
            }
            open.push(connection);
            tick().await;
        }

        let new = all.admit(Some([10, 0, 0, 9].into())).unwrap();
        let closed: Vec<_> = open.iter().map(is_closed).collect();
        assert_eq!(closed.iter().position(|closed| *closed), Some(1));
        assert_eq!(closed.iter().filter(|closed| **closed).count(), 1);
        assert!(!is_closed(&new));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_without_a_key_displaces_its_own_connections_first() {
        let all = Connections::new(16);
        let other = all.admit(Some([10, 0, 0, 1].into())).unwrap();
        tick().await;

        let mut flood = Vec::new();
        for _ in 0..100 {
            flood.push(all.admit(Some([10, 0, 0, 2].into())).unwrap());
            tick().await;
        }

        assert!(!is_closed(&other));
        assert_eq!(flood.iter().filter(|one| !is_closed(one)).count(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_in_use_stay_and_a_key_has_a_share() {
        let all = Connections::new(8);
        let mut in_use = Vec::new();

        for key in ["a", "b", "c", "d"].map(Owner::key) {
            for _ in 0..2 {
                let connection = all.admit(None).unwrap();
                let request = connection.start_request(&key).unwrap();
                in_use.push((connection, request));
            }
        }
        assert!(all.admit(None).is_none());

        // One more of a key whose connections are all in use is refused, of others not.
        in_use.remove(0);
        let connection = all.admit(None).unwrap();
        let refused = connection.start_request(&Owner::key("b")).unwrap_err();
        assert!(
            refused.message.contains("limit of 2"),
            "{}",
            refused.message
        );
        let request = connection.start_request(&Owner::key("a")).unwrap();

        // An idle one gives way, to the same key and to others.
        drop(request);
        let next = all.admit(None).unwrap();
        assert!(is_closed(&connection) && !is_closed(&next));
    }
}

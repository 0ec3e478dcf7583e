//! The MCP sessions over HTTP: who owns each, and which calls have lost their clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use rmcp::transport::common::server_side_http::SessionId;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::state::memory_budget::{Charge, attach};
use crate::sync::lock;

/// Concurrent sessions of one owner. Each costs a task and some hundred KiB of events that a client may request again.
pub(super) const MAX_SESSIONS: usize = 64;

/// How long a session must be without requests before a new one of its owner replaces it. Many clients disconnect without
/// ending their sessions.
const IDLE_BEFORE_REPLACED: Duration = Duration::from_secs(300);

/// How long a call continues after its client has disconnected. A client whose connection broke reconnects within it.
const RECONNECT_GRACE: Duration = Duration::from_secs(2);

/// The sessions and their owners.
#[derive(Debug)]
pub(super) struct SessionRegistry {
    manager: Arc<LocalSessionManager>,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
}

impl SessionRegistry {
    pub(super) fn new(manager: Arc<LocalSessionManager>) -> Self {
        Self {
            manager,
            sessions: Mutex::default(),
        }
    }

    /// Returns the session of a request, or `None` if there is no such session, which the MCP library then reports.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if it belongs to another owner.
    pub(super) fn find(&self, id: &str, owner: &Owner) -> Result<Option<Arc<Session>>, ApiError> {
        match lock(&self.sessions).get(id) {
            Some(session) if session.owner == *owner => Ok(Some(session.clone())),
            Some(_) => Err(ApiError::not_found("session", id)),
            None => Ok(None),
        }
    }

    /// Registers a session that the MCP library has started.
    ///
    /// # Errors
    /// [`ApiErrorKind::Busy`] if the owner has too many sessions. The session is then closed again.
    pub(super) async fn register(&self, id: &str, owner: Owner) -> Result<(), ApiError> {
        let id = SessionId::from(id);
        let (to_close, is_registered) = {
            let live = self.manager.sessions.read().await;
            let mut sessions = lock(&self.sessions);
            sessions.retain(|id, _| live.contains_key(id));

            match find_slot(&sessions, &owner) {
                Slot::Free => {
                    sessions.insert(id, Arc::new(Session::new(owner)));
                    (None, true)
                }
                Slot::Replace(idle) => {
                    sessions.remove(&idle);
                    sessions.insert(id, Arc::new(Session::new(owner)));
                    (Some(idle), true)
                }
                Slot::Full => (Some(id), false),
            }
        };

        if let Some(id) = to_close
            && let Err(error) = self.manager.close_session(&id).await
        {
            tracing::warn!(%error, "cannot close an MCP session");
        }

        if is_registered {
            return Ok(());
        }

        let message = format!(
            "limit of {MAX_SESSIONS} MCP sessions per key reached; end one with DELETE, or retry later: a session without \
             requests for {} s is replaced",
            IDLE_BEFORE_REPLACED.as_secs()
        );
        Err(ApiError::new(ApiErrorKind::Busy, message))
    }

    /// Removes a session that its client has ended.
    pub(super) fn remove(&self, id: &str) {
        lock(&self.sessions).remove(id);
    }
}

/// Whether an owner may have one more session.
#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// Only in place of this session.
    Replace(SessionId),
    Full,
}

fn find_slot(sessions: &HashMap<SessionId, Arc<Session>>, owner: &Owner) -> Slot {
    let own = || sessions.iter().filter(|(_, one)| one.owner == *owner);
    if own().count() < MAX_SESSIONS {
        return Slot::Free;
    }

    // Every request in a session holds a reference to it.
    let longest_idle = own()
        .filter(|(_, one)| Arc::strong_count(one) == 1)
        .map(|(id, one)| (lock(&one.calls).last_used, id))
        .filter(|(last_used, _)| last_used.elapsed() >= IDLE_BEFORE_REPLACED)
        .min();

    longest_idle.map_or(Slot::Full, |(_, id)| Slot::Replace(id.clone()))
}

/// A session of one owner.
#[derive(Debug)]
pub(super) struct Session {
    owner: Owner,
    calls: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    /// When the last request ended.
    last_used: Instant,
    /// The calls whose clients have disconnected, and when. The token of a call that is over no longer exists.
    abandoned: Vec<(Instant, Weak<CancellationToken>)>,
    /// The number of streams on which a client that reconnected receives the responses to earlier calls.
    resumed: usize,
}

impl Session {
    fn new(owner: Owner) -> Self {
        let calls = Calls {
            last_used: Instant::now(),
            abandoned: Vec::new(),
            resumed: 0,
        };

        Self {
            owner,
            calls: Mutex::new(calls),
        }
    }

    fn resume(&self) {
        lock(&self.calls).resumed += 1;
    }

    /// Notes that a response has ended, because it is complete or because its client has disconnected.
    fn response_ended(self: Arc<Self>, call: Weak<CancellationToken>, is_resumed: bool) {
        let now = Instant::now();
        {
            let mut calls = lock(&self.calls);
            calls.last_used = now;
            calls.resumed -= usize::from(is_resumed);
            calls.abandoned.push((now, call));
            calls.abandoned.retain(|(_, call)| call.strong_count() > 0);

            if calls.abandoned.is_empty() {
                return;
            }
        }

        // Outside of a runtime nothing can wait: cancel at once.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.cancel_abandoned(now);
        };

        runtime.spawn(async move {
            tokio::time::sleep(RECONNECT_GRACE).await;
            self.cancel_abandoned(now);
        });
    }

    /// Cancels the calls that were abandoned at `until` or before, unless their client has reconnected.
    fn cancel_abandoned(&self, until: Instant) {
        let mut calls = lock(&self.calls);
        if calls.resumed > 0 {
            return;
        }

        calls.abandoned.retain(|(at, call)| {
            let is_due = *at <= until;
            if is_due && let Some(call) = call.upgrade() {
                call.cancel();
            }
            !is_due
        });
    }
}

/// Signals to a call that its client has disconnected.
#[derive(Debug, Clone)]
pub(super) struct ClientGone(Arc<CancellationToken>);

impl ClientGone {
    /// Waits until the client has disconnected.
    pub(super) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

/// The charge of a call's result to its owner's quota. Shared by the call and the body of its response.
#[derive(Debug, Clone, Default)]
pub(super) struct ResultCharge(Arc<OnceLock<Arc<Charge>>>);

impl ResultCharge {
    /// Keeps the charge until the response was sent. A response has one result.
    pub(super) fn set(&self, charge: Charge) {
        let _ = self.0.set(Arc::new(charge));
    }

    /// Returns these bytes of the response, which keep the charge.
    pub(super) fn attach(&self, bytes: Bytes) -> Bytes {
        match self.0.get() {
            Some(charge) => attach(bytes, charge),
            None => bytes,
        }
    }
}

/// Held while a response is sent. Dropping it notifies the session that the client no longer receives the response.
#[derive(Debug)]
pub(super) struct ResponseGuard {
    call: Weak<CancellationToken>,
    session: Option<Arc<Session>>,
    is_resumed: bool,
}

impl ResponseGuard {
    /// Creates the guard of a response, and the signal for its call.
    pub(super) fn new(session: Option<Arc<Session>>, is_resumed: bool) -> (Self, ClientGone) {
        let token = Arc::new(CancellationToken::new());
        if let Some(session) = session.as_ref().filter(|_| is_resumed) {
            session.resume();
        }

        let guard = Self {
            call: Arc::downgrade(&token),
            session,
            is_resumed,
        };

        (guard, ClientGone(token))
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        let call = std::mem::take(&mut self.call);
        match self.session.take() {
            Some(session) => session.response_ended(call, self.is_resumed),
            // Without a session the client cannot reconnect.
            None => {
                if let Some(call) = call.upgrade() {
                    call.cancel();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Arc<Session> {
        Arc::new(Session::new(Owner::local()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_client_is_cancelled_after_a_while() {
        let (guard, client_gone) = ResponseGuard::new(Some(session()), false);
        drop(guard);
        tokio::time::sleep(RECONNECT_GRACE / 2).await;
        assert!(!client_gone.0.is_cancelled());
        client_gone.wait().await;
        let (guard, client_gone) = ResponseGuard::new(None, false);
        drop(guard);
        assert!(client_gone.0.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_continues_when_its_client_reconnects() {
        let session = session();
        let (guard, client_gone) = ResponseGuard::new(Some(session.clone()), false);
        drop(guard);
        let (again, _) = ResponseGuard::new(Some(session.clone()), true);
        tokio::time::sleep(RECONNECT_GRACE * 3).await;
        assert!(!client_gone.0.is_cancelled());
        drop(again);
        client_gone.wait().await;
        assert!(lock(&session.calls).abandoned.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_are_over_are_not_kept() {
        let session = session();
        let (guard, client_gone) = ResponseGuard::new(Some(session.clone()), false);
        drop(client_gone);
        drop(guard);
        assert!(lock(&session.calls).abandoned.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_limited_and_idle_ones_are_replaced() {
        let owner = Owner::local();
        let mut sessions = HashMap::new();

        for number in 0..MAX_SESSIONS {
            assert_eq!(find_slot(&sessions, &owner), Slot::Free);
            sessions.insert(SessionId::from(number.to_string()), session());
        }

        assert_eq!(find_slot(&sessions, &owner), Slot::Full);
        assert_eq!(find_slot(&sessions, &Owner::key("other")), Slot::Free);
        tokio::time::sleep(IDLE_BEFORE_REPLACED).await;
        let held: Vec<_> = sessions.values().cloned().collect();
        assert_eq!(find_slot(&sessions, &owner), Slot::Full);
        drop(held);
        assert!(matches!(find_slot(&sessions, &owner), Slot::Replace(_)));
    }
}

//! The sessions of the protocol over HTTP: whose each is, and which calls in it have lost their clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rmcp::transport::common::server_side_http::SessionId;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::sync::lock;

/// Sessions of one owner at once: each is a task and some hundred KiB of events that may be asked for again.
pub(super) const MAX_SESSIONS: usize = 64;

/// After how long a session that no request is open in makes room for a new one of its owner: many clients go away
/// without ending theirs.
const IDLE_BEFORE_REPLACED: Duration = Duration::from_secs(300);

/// How long a call goes on whose client has gone: one whose connection broke comes again within that.
const RECONNECT_GRACE: Duration = Duration::from_secs(2);

/// The sessions that are there.
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

    /// A session, for a request in it. None: there is none, as whoever serves it will say.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: it is somebody else's.
    pub(super) fn find(&self, id: &str, owner: &Owner) -> Result<Option<Arc<Session>>, ApiError> {
        match lock(&self.sessions).get(id) {
            Some(session) if session.owner == *owner => Ok(Some(session.clone())),
            Some(_) => Err(ApiError::not_found("session", id)),
            None => Ok(None),
        }
    }

    /// Learns of a session that has just been begun.
    ///
    /// # Errors
    /// [`Kind::Busy`]: its owner has as many as are allowed; it is closed again.
    pub(super) async fn register(&self, id: &str, owner: Owner) -> Result<(), ApiError> {
        let id = SessionId::from(id);
        let (closed, admitted) = {
            let live = self.manager.sessions.read().await;
            let mut sessions = lock(&self.sessions);
            sessions.retain(|id, _| live.contains_key(id));
            let unused = match find_slot(&sessions, &owner) {
                Slot::Free => None,
                Slot::Replace(unused) => Some(unused),
                Slot::Full => Some(id.clone()),
            };
            let is_refused = unused.as_ref() == Some(&id);
            if let Some(unused) = &unused {
                sessions.remove(unused);
            }
            if !is_refused {
                sessions.insert(id, Arc::new(Session::new(owner)));
            }
            (unused, !is_refused)
        };
        if let Some(closed) = closed
            && let Err(error) = self.manager.close_session(&closed).await
        {
            tracing::warn!(%error, "a session was not closed");
        }
        if admitted {
            return Ok(());
        }
        let message = format!(
            "{MAX_SESSIONS} MCP sessions are open, the most that one key may have; end one by DELETE, or come again: one \
             that nothing was asked in for {} s makes room",
            IDLE_BEFORE_REPLACED.as_secs()
        );
        Err(ApiError::new(ApiErrorKind::Busy, message))
    }

    /// Forgets a session that was ended.
    pub(super) fn forget(&self, id: &str) {
        lock(&self.sessions).remove(id);
    }
}

/// Whether an owner may have one more session.
#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// In the place of this one.
    Replace(SessionId),
    Full,
}

fn find_slot(sessions: &HashMap<SessionId, Arc<Session>>, owner: &Owner) -> Slot {
    let own = || sessions.iter().filter(|(_, one)| one.owner == *owner);
    if own().count() < MAX_SESSIONS {
        return Slot::Free;
    }
    // Whatever goes on in a session holds it.
    let unused = own()
        .filter(|(_, one)| Arc::strong_count(one) == 1)
        .map(|(id, one)| (lock(&one.calls).last_used, id))
        .filter(|(last_used, _)| last_used.elapsed() >= IDLE_BEFORE_REPLACED)
        .min();
    unused.map_or(Slot::Full, |(_, id)| Slot::Replace(id.clone()))
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    owner: Owner,
    calls: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    /// When a request in it ended last.
    last_used: Instant,
    /// Calls whose clients have gone, and since when; one that is over is gone itself.
    abandoned: Vec<(Instant, Weak<CancellationToken>)>,
    /// Streams by which a client goes on listening to calls whose connections it lost.
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

    /// A stream or a call's answer has ended, and with it perhaps its client.
    fn response_ended(self: Arc<Self>, call: Weak<CancellationToken>, is_resumed: bool) {
        let now = Instant::now();
        let mut calls = lock(&self.calls);
        calls.last_used = now;
        calls.resumed -= usize::from(is_resumed);
        calls.abandoned.push((now, call));
        calls.abandoned.retain(|(_, call)| call.strong_count() > 0);
        if calls.abandoned.is_empty() {
            return;
        }
        drop(calls);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.cancel_abandoned(now);
        };
        runtime.spawn(async move {
            tokio::time::sleep(RECONNECT_GRACE).await;
            self.cancel_abandoned(now);
        });
    }

    /// Cancels the calls that nobody has listened to since then.
    fn cancel_abandoned(&self, abandoned_before: Instant) {
        let mut calls = lock(&self.calls);
        if calls.resumed > 0 {
            return;
        }
        calls.abandoned.retain(|(at, call)| {
            let is_late = *at <= abandoned_before;
            if is_late && let Some(call) = call.upgrade() {
                call.cancel();
            }
            !is_late
        });
    }
}

/// Says to a call that its client has gone.
#[derive(Debug, Clone)]
pub(super) struct ClientGone(Arc<CancellationToken>);

impl ClientGone {
    /// Waits until it has.
    pub(super) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

/// Held while a request's answer is being sent; dropped, it lets the call know that nobody listens any more.
#[derive(Debug)]
pub(super) struct ResponseGuard {
    call: Weak<CancellationToken>,
    session: Option<Arc<Session>>,
    is_resumed: bool,
}

impl ResponseGuard {
    /// The listener of a call, and what goes into the call.
    pub(super) fn new(session: Option<Arc<Session>>, is_resumed: bool) -> (Self, ClientGone) {
        let token = Arc::new(CancellationToken::new());
        if let (Some(session), true) = (&session, is_resumed) {
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
            // Without a session there is no coming again.
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
    async fn one_that_is_listened_to_again_goes_on() {
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
    async fn what_is_over_is_not_kept() {
        let session = session();
        let (guard, client_gone) = ResponseGuard::new(Some(session.clone()), false);
        drop(client_gone);
        drop(guard);
        assert!(lock(&session.calls).abandoned.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_has_so_many_sessions_and_unused_ones_make_room() {
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

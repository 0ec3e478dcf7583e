//! The sessions of the protocol over HTTP: whose each is, and which calls in it have lost their clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rmcp::transport::common::server_side_http::SessionId;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, Kind};
use crate::owner::Owner;
use crate::sync::lock;

/// Sessions of one owner at once: each is a task and some hundred KiB of events that may be asked for again.
pub(super) const SESSIONS: usize = 64;

/// After how long a session that no request is open in makes room for a new one of its owner: many clients go away
/// without ending theirs.
const UNUSED: Duration = Duration::from_secs(300);

/// How long a call goes on whose client has gone: one whose connection broke comes again within that.
const ALONE: Duration = Duration::from_secs(2);

/// The sessions that are there.
#[derive(Debug)]
pub(super) struct Known {
    manager: Arc<LocalSessionManager>,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
}

impl Known {
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
    pub(super) async fn admit(&self, id: &str, owner: Owner) -> Result<(), ApiError> {
        let id = SessionId::from(id);
        let (closed, admitted) = {
            let live = self.manager.sessions.read().await;
            let mut sessions = lock(&self.sessions);
            sessions.retain(|id, _| live.contains_key(id));
            let unused = match room(&sessions, &owner) {
                Room::Free => None,
                Room::Instead(unused) => Some(unused),
                Room::None => Some(id.clone()),
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
            "{SESSIONS} MCP sessions are open, the most that one key may have; end one by DELETE, or come again: one \
             that nothing was asked in for {} s makes room",
            UNUSED.as_secs()
        );
        Err(ApiError::new(Kind::Busy, message))
    }

    /// Forgets a session that was ended.
    pub(super) fn forget(&self, id: &str) {
        lock(&self.sessions).remove(id);
    }
}

/// Whether an owner may have one more session.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// In the place of this one.
    Instead(SessionId),
    None,
}

fn room(sessions: &HashMap<SessionId, Arc<Session>>, owner: &Owner) -> Room {
    let own = || sessions.iter().filter(|(_, one)| one.owner == *owner);
    if own().count() < SESSIONS {
        return Room::Free;
    }
    // Whatever goes on in a session holds it.
    let unused = own()
        .filter(|(_, one)| Arc::strong_count(one) == 1)
        .map(|(id, one)| (lock(&one.calls).used, id))
        .filter(|(used, _)| used.elapsed() >= UNUSED)
        .min();
    unused.map_or(Room::None, |(_, id)| Room::Instead(id.clone()))
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
    used: Instant,
    /// Calls whose clients have gone, and since when; one that is over is gone itself.
    alone: Vec<(Instant, Weak<CancellationToken>)>,
    /// Streams by which a client goes on listening to calls whose connections it lost.
    resumed: usize,
}

impl Session {
    fn new(owner: Owner) -> Self {
        let calls = Calls {
            used: Instant::now(),
            alone: Vec::new(),
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
    fn left(self: Arc<Self>, call: Weak<CancellationToken>, was_resumed: bool) {
        let now = Instant::now();
        let mut calls = lock(&self.calls);
        calls.used = now;
        calls.resumed -= usize::from(was_resumed);
        calls.alone.push((now, call));
        calls.alone.retain(|(_, call)| call.strong_count() > 0);
        if calls.alone.is_empty() {
            return;
        }
        drop(calls);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.cancel(now);
        };
        runtime.spawn(async move {
            tokio::time::sleep(ALONE).await;
            self.cancel(now);
        });
    }

    /// Cancels the calls that nobody has listened to since then.
    fn cancel(&self, since: Instant) {
        let mut calls = lock(&self.calls);
        if calls.resumed > 0 {
            return;
        }
        calls.alone.retain(|(at, call)| {
            let is_late = *at <= since;
            if is_late && let Some(call) = call.upgrade() {
                call.cancel();
            }
            !is_late
        });
    }
}

/// Says to a call that its client has gone.
#[derive(Debug, Clone)]
pub(super) struct Gone(Arc<CancellationToken>);

impl Gone {
    /// Waits until it has.
    pub(super) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

/// Held while a request's answer is being sent; dropped, it lets the call know that nobody listens any more.
#[derive(Debug)]
pub(super) struct Listener {
    call: Weak<CancellationToken>,
    session: Option<Arc<Session>>,
    is_resumed: bool,
}

impl Listener {
    /// The listener of a call, and what goes into the call.
    pub(super) fn new(session: Option<Arc<Session>>, is_resumed: bool) -> (Self, Gone) {
        let token = Arc::new(CancellationToken::new());
        if let (Some(session), true) = (&session, is_resumed) {
            session.resume();
        }
        let listener = Self {
            call: Arc::downgrade(&token),
            session,
            is_resumed,
        };
        (listener, Gone(token))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let call = std::mem::take(&mut self.call);
        match self.session.take() {
            Some(session) => session.left(call, self.is_resumed),
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
        let (listener, gone) = Listener::new(Some(session()), false);
        drop(listener);
        tokio::time::sleep(ALONE / 2).await;
        assert!(!gone.0.is_cancelled());
        gone.wait().await;
        let (listener, gone) = Listener::new(None, false);
        drop(listener);
        assert!(gone.0.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_listened_to_again_goes_on() {
        let session = session();
        let (listener, gone) = Listener::new(Some(session.clone()), false);
        drop(listener);
        let (again, _) = Listener::new(Some(session.clone()), true);
        tokio::time::sleep(ALONE * 3).await;
        assert!(!gone.0.is_cancelled());
        drop(again);
        gone.wait().await;
        assert!(lock(&session.calls).alone.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_not_kept() {
        let session = session();
        let (listener, gone) = Listener::new(Some(session.clone()), false);
        drop(gone);
        drop(listener);
        assert!(lock(&session.calls).alone.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_has_so_many_sessions_and_unused_ones_make_room() {
        let owner = Owner::local();
        let mut sessions = HashMap::new();
        for number in 0..SESSIONS {
            assert_eq!(room(&sessions, &owner), Room::Free);
            sessions.insert(SessionId::from(number.to_string()), session());
        }
        assert_eq!(room(&sessions, &owner), Room::None);
        assert_eq!(room(&sessions, &Owner::key("other")), Room::Free);
        tokio::time::sleep(UNUSED).await;
        let held: Vec<_> = sessions.values().cloned().collect();
        assert_eq!(room(&sessions, &owner), Room::None);
        drop(held);
        assert!(matches!(room(&sessions, &owner), Room::Instead(_)));
    }
}

//! A sandbox that runs, as the server holds it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fumehood_engine::{Error, ErrorKind, Sandbox, SandboxEnd, report};
use jiff::Timestamp;
use serde::Serialize;

use super::event_log::{Follower, Ring};
use crate::api::responses::{SandboxState, SandboxView};
use crate::api::timestamp::written;
use crate::error::ApiError;
use crate::owner::Owner;
use crate::sync::lock;

/// Seconds without anything asked of it after which a sandbox ends, unless its owner says otherwise.
const IDLE_S: u64 = 300;

/// Seconds after which it ends at the latest, unless its owner says otherwise: a day.
const LIFETIME_S: u64 = 86_400;

/// The longest of both, in seconds: a year.
const LONGEST_S: u64 = 365 * 24 * 60 * 60;

/// Events of a sandbox that are kept, in bytes of JSON.
const EVENTS_BYTES: usize = 1024 * 1024;

/// A sandbox that is there.
#[derive(Debug)]
pub struct Kept {
    id: String,
    owner: Owner,
    name: Option<String>,
    created: Timestamp,
    sandbox: Sandbox,
    times: Mutex<Times>,
    urls: Mutex<Vec<String>>,
    ring: Arc<Ring>,
}

/// Seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    idle_s: u64,
    lifetime_s: u64,
}

impl Times {
    pub(crate) fn of(
        idle_s: Option<u64>,
        lifetime_s: Option<u64>,
        or: Self,
    ) -> Result<Self, ApiError> {
        let given = [("idle_timeout_s", idle_s), ("max_lifetime_s", lifetime_s)];
        for (name, seconds) in given {
            if seconds.is_some_and(|seconds| !(1..=LONGEST_S).contains(&seconds)) {
                let message = format!("`{name}`: 1 to {LONGEST_S} seconds are allowed");
                return Err(ApiError::invalid(message));
            }
        }
        Ok(Self {
            idle_s: idle_s.unwrap_or(or.idle_s),
            lifetime_s: lifetime_s.unwrap_or(or.lifetime_s),
        })
    }

    pub(crate) const UNLESS_GIVEN: Self = Self {
        idle_s: IDLE_S,
        lifetime_s: LIFETIME_S,
    };
}

impl Kept {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The engine's sandbox.
    #[must_use]
    pub fn handle(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Holds a sandbox that was started, and sets its times.
    pub(crate) fn new(
        id: String,
        owner: &Owner,
        sandbox: Sandbox,
        name: Option<String>,
        times: Times,
    ) -> Arc<Self> {
        let urls = sandbox
            .network()
            .map(|network| network.urls)
            .unwrap_or_default();
        let kept = Self {
            id,
            owner: owner.clone(),
            name,
            created: Timestamp::now(),
            sandbox,
            times: Mutex::new(times),
            urls: Mutex::new(urls),
            ring: Ring::new(EVENTS_BYTES),
        };
        kept.set_times(times);
        Arc::new(kept)
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(crate) fn set_times(&self, times: Times) {
        *lock(&self.times) = times;
        let (idle, lifetime) = (times.idle_s, times.lifetime_s);
        self.sandbox
            .set_idle_timeout(Some(Duration::from_secs(idle)));
        self.sandbox
            .set_max_lifetime(Some(Duration::from_secs(lifetime)));
    }

    pub(crate) fn add_url(&self, url: String) {
        lock(&self.urls).push(url);
    }

    /// The last event, after which nothing is told.
    pub(crate) fn close(&self, name: &'static str, what: &impl Serialize) {
        self.ring
            .close(name, serde_json::to_string(what).unwrap_or_default());
    }

    pub(crate) fn times(&self) -> Times {
        *lock(&self.times)
    }

    pub(crate) fn tell(&self, name: &'static str, what: &impl Serialize) {
        self.ring
            .tell(name, serde_json::to_string(what).unwrap_or_default());
    }

    /// Follows what goes on in it after this event; 0 = from its beginning.
    #[must_use]
    pub fn follow(&self, after: u64) -> Follower {
        self.ring.follow(after)
    }

    /// As callers see it.
    #[must_use]
    pub fn view(&self) -> SandboxView {
        let times = self.times();
        SandboxView {
            id: self.id.clone(),
            name: self.name.clone(),
            state: SandboxState::Running,
            created_at: written(self.created),
            ended_at: None,
            ended: None,
            ended_why: None,
            memory_mib: self.sandbox.memory_mib(),
            idle_timeout_s: times.idle_s,
            max_lifetime_s: times.lifetime_s,
            source: self.sandbox.source().as_str().into(),
            isolation: report::isolation(self.sandbox.isolation()),
            urls: lock(&self.urls).clone(),
        }
    }

    /// An error of the engine's, with the sandbox's end where that is the reason.
    pub(crate) fn explain(&self, error: Error) -> ApiError {
        let is_lost = error.kind() == ErrorKind::Lost;
        let mut error = ApiError::from(error);
        if is_lost {
            error.ended = self.sandbox.ended().map(|end| word(&end).into());
        }
        error
    }
}

pub(crate) fn word(end: &SandboxEnd) -> &'static str {
    match end {
        SandboxEnd::Requested => "asked",
        SandboxEnd::Idle(_) => "idle",
        SandboxEnd::Lifetime(_) => "lifetime",
        _ => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_at_their_limits_and_past_them() {
        let of = |idle| Times::of(Some(idle), None, Times::UNLESS_GIVEN);
        assert!(of(1).is_ok() && of(LONGEST_S).is_ok());
        for wrong in [0, LONGEST_S + 1] {
            assert!(of(wrong).unwrap_err().message.contains("idle_timeout_s"));
        }
        assert_eq!(of(7).unwrap().lifetime_s, LIFETIME_S);
    }
}

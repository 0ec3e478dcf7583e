//! A running sandbox, as the server holds it.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use fumehood_engine::{Error, ErrorKind, Language, Sandbox, SandboxEnd};
use jiff::Timestamp;
use serde::Serialize;

use super::event_log::{EventLog, EventSubscriber};
use crate::api::object_name::ObjectName;
use crate::api::program::ProgramResponse;
use crate::api::responses::{SandboxResponse, SandboxState};
use crate::api::timestamp::format_timestamp;
use crate::error::ApiError;
use crate::owner::Owner;
use crate::sync::lock;

/// The default idle timeout of a sandbox, in seconds.
const DEFAULT_IDLE_TIMEOUT_S: u64 = 300;

/// The default maximum lifetime of a sandbox, in seconds: one day.
const DEFAULT_MAX_LIFETIME_S: u64 = 86_400;

/// The longest timeout that a request may set, in seconds: one year.
const MAX_TIMEOUT_S: u64 = 365 * 24 * 60 * 60;

/// The events of a sandbox that are kept, in bytes of JSON.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// A running sandbox with its owner, its timeouts and its events.
#[derive(Debug)]
pub struct SandboxHandle {
    id: String,
    owner: Owner,
    description: Description,
    created: Timestamp,
    sandbox: Sandbox,
    timeouts: Mutex<Timeouts>,
    urls: Mutex<Vec<String>>,
    events: Arc<EventLog>,
    end_cause: OnceLock<EndCause>,
}

/// Why a sandbox was ended by another party than its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndCause {
    ServerStopped,
    KeyRevoked,
    Operator,
}

impl EndCause {
    /// Returns the word for this end, as the field `ended` has it, and a sentence for people.
    fn reason(self) -> (&'static str, &'static str) {
        match self {
            Self::ServerStopped => ("server_stopped", "the server was stopped"),
            Self::KeyRevoked => ("key_revoked", "its API key was revoked"),
            Self::Operator => ("operator", "the operator of the server ended it"),
        }
    }
}

/// What callers know a sandbox by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Description {
    /// The name that may be used in place of the id.
    pub(crate) name: Option<ObjectName>,
    /// The language that the sandbox was started for.
    pub(crate) language: Option<Language>,
}

/// The timeouts of a sandbox, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    idle_s: u64,
    lifetime_s: u64,
}

impl Timeouts {
    pub(crate) const DEFAULT: Self = Self {
        idle_s: DEFAULT_IDLE_TIMEOUT_S,
        lifetime_s: DEFAULT_MAX_LIFETIME_S,
    };

    /// Returns these timeouts with those of a request in their place.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) if one is 0 or longer than a year.
    pub(crate) fn updated(
        self,
        idle_timeout_s: Option<u64>,
        max_lifetime_s: Option<u64>,
    ) -> Result<Self, ApiError> {
        let fields = [
            ("idle_timeout_s", idle_timeout_s),
            ("max_lifetime_s", max_lifetime_s),
        ];

        for (name, seconds) in fields {
            if seconds.is_some_and(|seconds| !(1..=MAX_TIMEOUT_S).contains(&seconds)) {
                let message = format!("`{name}` must be between 1 and {MAX_TIMEOUT_S} seconds");
                return Err(ApiError::invalid(message));
            }
        }

        Ok(Self {
            idle_s: idle_timeout_s.unwrap_or(self.idle_s),
            lifetime_s: max_lifetime_s.unwrap_or(self.lifetime_s),
        })
    }
}

impl SandboxHandle {
    /// Takes over a sandbox that the engine has started, and sets its timeouts.
    pub(crate) fn new(
        id: String,
        owner: &Owner,
        sandbox: Sandbox,
        description: Description,
        timeouts: Timeouts,
    ) -> Arc<Self> {
        let network = sandbox.network();
        let urls = network.map(|network| network.urls).unwrap_or_default();
        let handle = Self {
            id,
            owner: owner.clone(),
            description,
            created: Timestamp::now(),
            sandbox,
            timeouts: Mutex::new(timeouts),
            urls: Mutex::new(urls),
            events: EventLog::new(MAX_EVENT_BYTES, Arc::default()),
            end_cause: OnceLock::new(),
        };
        handle.set_timeouts(timeouts);

        Arc::new(handle)
    }

    /// Returns the sandbox's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the engine's sandbox.
    #[must_use]
    pub fn engine_sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Returns the sandbox's name, if it has one.
    pub(crate) fn name(&self) -> Option<&ObjectName> {
        self.description.name.as_ref()
    }

    /// Returns the language that the sandbox was started for.
    pub(crate) fn language(&self) -> Option<Language> {
        self.description.language
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        *lock(&self.timeouts)
    }

    pub(crate) fn set_timeouts(&self, timeouts: Timeouts) {
        *lock(&self.timeouts) = timeouts;
        let idle = Duration::from_secs(timeouts.idle_s);
        let lifetime = Duration::from_secs(timeouts.lifetime_s);
        self.sandbox.set_idle_timeout(Some(idle));
        self.sandbox.set_max_lifetime(Some(lifetime));
    }

    /// Notes why the sandbox is about to be ended. Returns whether this is the first cause.
    pub(crate) fn set_end_cause(&self, cause: EndCause) -> bool {
        self.end_cause.set(cause).is_ok()
    }

    /// Returns why the sandbox has ended: a word for the field `ended`, and a sentence for people.
    pub(crate) fn end_reason(&self, end: &SandboxEnd) -> (&'static str, String) {
        match self.end_cause.get() {
            Some(cause) if *end == SandboxEnd::Requested => {
                let (word, sentence) = cause.reason();
                (word, sentence.to_owned())
            }
            _ => (end_reason(end), end.to_string()),
        }
    }

    /// Adds the URL of an exposed port.
    pub(crate) fn add_url(&self, url: String) {
        lock(&self.urls).push(url);
    }

    /// Appends an event.
    pub(crate) fn emit(&self, name: &'static str, data: &impl Serialize) {
        let data = serde_json::to_string(data).unwrap_or_default();
        self.events.append(name, data);
    }

    /// Appends the last event, and closes the event log.
    pub(crate) fn close_events(&self, name: &'static str, data: &impl Serialize) {
        let data = serde_json::to_string(data).unwrap_or_default();
        self.events.close(name, data);
    }

    /// Subscribes to the sandbox's events after number `after`; 0 starts with the first event.
    #[must_use]
    pub fn subscribe(&self, after: u64) -> EventSubscriber {
        self.events.subscribe(after)
    }

    /// Returns the sandbox as callers see it.
    #[must_use]
    pub fn response(&self) -> SandboxResponse {
        let timeouts = self.timeouts();
        let inherited = self.sandbox.inherited_programs();
        let (inherited_programs, inherited_program_count) =
            inherited.map(ProgramResponse::list).unwrap_or_default();

        SandboxResponse {
            id: self.id.clone(),
            name: self.description.name.clone().map(String::from),
            language: self.description.language,
            state: SandboxState::Running,
            created_at: format_timestamp(self.created),
            ended_at: None,
            ended: None,
            ended_why: None,
            memory_mib: self.sandbox.memory_mib(),
            idle_timeout_s: timeouts.idle_s,
            max_lifetime_s: timeouts.lifetime_s,
            source: self.sandbox.source(),
            isolation: self.sandbox.isolation().clone(),
            urls: lock(&self.urls).clone(),
            packages: self.sandbox.packages().to_vec(),
            inherited_programs,
            inherited_program_count,
        }
    }

    /// Converts an error of the engine, and adds why the sandbox ended if that is the cause.
    pub(crate) fn to_api_error(&self, error: Error) -> ApiError {
        let is_lost = error.kind() == ErrorKind::Lost;
        let mut error = ApiError::from(error);
        if is_lost {
            error.ended = self.sandbox.ended().map(|end| end_reason(&end).into());
        }
        error
    }
}

/// Returns the word for the end of a sandbox, as the field `ended` has it.
fn end_reason(end: &SandboxEnd) -> &'static str {
    match end {
        SandboxEnd::Requested => "requested",
        SandboxEnd::Idle(_) => "idle",
        SandboxEnd::Lifetime(_) => "lifetime",
        _ => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_at_their_limits_and_past_them() {
        let with_idle = |idle| Timeouts::DEFAULT.updated(Some(idle), None);
        assert!(with_idle(1).is_ok() && with_idle(MAX_TIMEOUT_S).is_ok());

        for wrong in [0, MAX_TIMEOUT_S + 1] {
            let error = with_idle(wrong).unwrap_err();
            assert!(error.message.contains("idle_timeout_s"));
        }

        assert_eq!(with_idle(7).unwrap().lifetime_s, DEFAULT_MAX_LIFETIME_S);
    }
}

//! A sandbox that has not ended, as the server holds it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use fumehood_engine::{Error, ErrorKind, Language, PortMapping, Sandbox, SandboxEnd};
use jiff::Timestamp;
use serde::Serialize;

use super::body::{Body, Running, SavedBody};
use crate::api::object_name::ObjectName;
use crate::api::program::ProgramResponse;
use crate::api::requests::{LifetimeCounts, NetworkRequest};
use crate::api::sandbox_responses::{ResumedFrom, SandboxResponse, SandboxState};
use crate::api::timeouts::Timeouts;
use crate::api::timestamp::format_timestamp;
use crate::error::ApiError;
use crate::owner::Owner;
use crate::state::event_log::{EventLog, EventSubscriber};
use crate::sync::lock;

/// The events of a sandbox that are kept, in bytes of JSON.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// A sandbox that has not ended, with its owner, its timeouts and its events.
#[derive(Debug)]
pub struct SandboxHandle {
    id: String,
    owner: Owner,
    name: Option<ObjectName>,
    language: Option<Language>,
    created: Timestamp,
    /// The public description, apart from the fields that change with every use.
    facts: Mutex<SandboxResponse>,
    body: Mutex<Body>,
    /// The operations that use the VM now.
    uses: AtomicUsize,
    last_used: Mutex<Instant>,
    timeouts: Mutex<Timeouts>,
    /// The network that the caller asked for. After a restart of the server it has no values of secrets.
    network: Mutex<Option<NetworkRequest>>,
    ports: Mutex<Vec<ExposedPort>>,
    events: Arc<EventLog>,
    end_cause: OnceLock<EndCause>,
}

/// A port that a caller has exposed, and where it is now.
#[derive(Debug, Clone)]
pub(crate) struct ExposedPort {
    pub(crate) mapping: PortMapping,
    pub(crate) url: String,
}

/// Why a sandbox was ended by another party than its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndCause {
    /// The server was stopped, and could not save it; the value says why.
    ServerStopped(String),
    KeyRevoked,
    Operator,
    Idle(u64),
    Lifetime(u64),
    /// It was paused for more than this many days.
    Expired(u64),
    /// Its saved state no longer exists.
    StateLost,
}

impl EndCause {
    /// Returns the word for this end, as the field `ended` has it, and a sentence for people.
    pub(crate) fn reason(&self) -> (&'static str, String) {
        match self {
            Self::ServerStopped(why) => {
                ("server_stopped", format!("the server was stopped; {why}"))
            }
            Self::KeyRevoked => ("key_revoked", "its API key was revoked".into()),
            Self::Operator => ("operator", "the operator of the server ended it".into()),
            Self::Idle(s) => ("idle", format!("it was idle for {s} s (its idle timeout)")),
            Self::Lifetime(s) => (
                "lifetime",
                format!("it existed for {s} s (its maximum lifetime)"),
            ),
            Self::Expired(days) => (
                "expired",
                format!("it was paused for {days} days, the maximum of this server"),
            ),
            Self::StateLost => ("server_lost", "its saved state no longer exists".into()),
        }
    }
}

/// The name and the settings of a sandbox, as its caller gave them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Description {
    /// The name that may be used in place of the id.
    pub(crate) name: Option<ObjectName>,
    /// The language that the sandbox was started for.
    pub(crate) language: Option<Language>,
    /// The network that the caller asked for.
    pub(crate) network: Option<NetworkRequest>,
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
        let created = Timestamp::now();
        let mut facts = SandboxResponse::starting(&id, format_timestamp(created));
        facts.name = description.name.clone().map(String::from);
        facts.language = description.language;
        describe_vm(&mut facts, &sandbox);

        let urls = sandbox
            .network()
            .map(|network| network.urls)
            .unwrap_or_default();
        let mappings = description
            .network
            .iter()
            .flat_map(|network| &network.expose);
        let ports = mappings.zip(urls).map(|(mapping, url)| ExposedPort {
            mapping: *mapping,
            url,
        });
        let ports = ports.collect();

        let running = Running {
            sandbox,
            since: Instant::now(),
            ran_before: Duration::ZERO,
        };
        let handle = Self::with(
            id,
            owner,
            facts,
            Body::Running(running),
            timeouts,
            description,
        );
        *lock(&handle.ports) = ports;
        handle.set_timeouts(timeouts);
        Arc::new(handle)
    }

    /// Takes over a sandbox that an earlier server has paused.
    pub(crate) fn paused(
        owner: &Owner,
        facts: SandboxResponse,
        saved: SavedBody,
        timeouts: Timeouts,
        network: Option<NetworkRequest>,
        ports: &[PortMapping],
    ) -> Arc<Self> {
        let description = Description {
            name: facts.name.as_deref().and_then(|name| name.parse().ok()),
            language: facts.language,
            network,
        };
        let id = facts.id.clone();
        let handle = Self::with(id, owner, facts, Body::Paused(saved), timeouts, description);
        *lock(&handle.ports) = ports
            .iter()
            .map(|mapping| ExposedPort {
                mapping: *mapping,
                url: String::new(),
            })
            .collect();
        Arc::new(handle)
    }

    fn with(
        id: String,
        owner: &Owner,
        facts: SandboxResponse,
        body: Body,
        timeouts: Timeouts,
        description: Description,
    ) -> Self {
        let created = facts
            .created_at
            .parse()
            .unwrap_or_else(|_| Timestamp::now());
        Self {
            id,
            owner: owner.clone(),
            name: description.name,
            language: description.language,
            created,
            facts: Mutex::new(facts),
            body: Mutex::new(body),
            uses: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
            timeouts: Mutex::new(timeouts),
            network: Mutex::new(description.network),
            ports: Mutex::default(),
            events: EventLog::new(MAX_EVENT_BYTES, Arc::default()),
            end_cause: OnceLock::new(),
        }
    }

    /// Returns the sandbox's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Returns the sandbox's name, if it has one.
    pub(crate) fn name(&self) -> Option<&ObjectName> {
        self.name.as_ref()
    }

    /// Returns the language that the sandbox was started for.
    pub(crate) fn language(&self) -> Option<Language> {
        self.language
    }

    /// Locks the body of the sandbox.
    pub(crate) fn body(&self) -> MutexGuard<'_, Body> {
        lock(&self.body)
    }

    /// Returns the state of the sandbox.
    #[must_use]
    pub fn state(&self) -> SandboxState {
        self.body().state()
    }

    /// Whether the sandbox has a VM, or gets one.
    pub(crate) fn has_vm(&self) -> bool {
        !matches!(self.state(), SandboxState::Paused | SandboxState::Ended)
    }

    pub(super) fn count_use(&self, begins: bool) {
        if begins {
            self.uses.fetch_add(1, Ordering::Relaxed);
        } else {
            self.uses.fetch_sub(1, Ordering::Relaxed);
        }
        *lock(&self.last_used) = Instant::now();
    }

    /// Returns how many operations use the VM now.
    pub(crate) fn uses(&self) -> usize {
        self.uses.load(Ordering::Relaxed)
    }

    /// Returns how long ago an operation used the VM.
    pub(crate) fn unused_for(&self) -> Duration {
        lock(&self.last_used).elapsed()
    }

    /// Counts this moment as a use.
    pub(crate) fn touch(&self) {
        *lock(&self.last_used) = Instant::now();
    }

    /// Replaces a paused sandbox's saved state by a VM.
    pub(crate) fn set_running(&self, sandbox: Sandbox, saved: &SavedBody) {
        let mut facts = lock(&self.facts);
        describe_vm(&mut facts, &sandbox);
        facts.resumed_from = saved
            .is_checkpoint
            .then(|| ResumedFrom::now(saved.saved_at));
        drop(facts);

        self.touch();
        *self.body() = Body::Running(Running {
            sandbox,
            since: Instant::now(),
            ran_before: saved.ran,
        });
        self.set_timeouts(self.timeouts());
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        *lock(&self.timeouts)
    }

    pub(crate) fn set_timeouts(&self, timeouts: Timeouts) {
        *lock(&self.timeouts) = timeouts;
        let body = self.body();
        let Some(running) = body.running() else {
            return;
        };

        // The engine counts from the start of this VM. Idle sandboxes are found by the server.
        let left = self.lifetime_left(&timeouts, running.ran());
        running
            .sandbox
            .set_max_lifetime(Some(running.since.elapsed() + left));
    }

    /// Returns how long the sandbox may still exist, if it ran for this long.
    pub(crate) fn lifetime_left(&self, timeouts: &Timeouts, ran: Duration) -> Duration {
        let lifetime = Duration::from_secs(timeouts.lifetime_s);
        let used = match timeouts.lifetime_counts {
            LifetimeCounts::Running => ran,
            LifetimeCounts::Always => {
                let age = Timestamp::now().duration_since(self.created);
                Duration::try_from(age).unwrap_or_default()
            }
        };
        lifetime.saturating_sub(used)
    }

    /// Returns the network that the caller asked for.
    pub(crate) fn network_request(&self) -> Option<NetworkRequest> {
        lock(&self.network).clone()
    }

    pub(crate) fn set_network_request(&self, network: NetworkRequest) {
        *lock(&self.network) = Some(network);
    }

    /// Notes why the sandbox is about to be ended. Returns whether this is the first cause.
    pub(crate) fn set_end_cause(&self, cause: EndCause) -> bool {
        self.end_cause.set(cause).is_ok()
    }

    /// Returns why the sandbox has ended: a word for the field `ended`, and a sentence for people.
    pub(crate) fn end_reason(&self, end: &SandboxEnd) -> (&'static str, String) {
        match (self.end_cause.get(), end) {
            (Some(cause), SandboxEnd::Requested) => cause.reason(),
            // The engine knows only the lifetime that was left.
            (_, SandboxEnd::Lifetime(_)) => EndCause::Lifetime(self.timeouts().lifetime_s).reason(),
            _ => (end_reason(end), end.to_string()),
        }
    }

    /// Adds an exposed port.
    pub(crate) fn add_port(&self, mapping: PortMapping, url: String) {
        lock(&self.ports).push(ExposedPort { mapping, url });
    }

    pub(crate) fn ports(&self) -> Vec<ExposedPort> {
        lock(&self.ports).clone()
    }

    pub(crate) fn set_ports(&self, ports: Vec<ExposedPort>) {
        *lock(&self.ports) = ports;
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
        let (state, saved) = {
            let body = self.body();
            (body.state(), body.saved().cloned())
        };

        let urls = self.ports().into_iter().map(|port| port.url);
        let urls = if saved.is_none() {
            urls.filter(|url| !url.is_empty()).collect()
        } else {
            Vec::new()
        };

        SandboxResponse {
            state,
            paused_at: saved.as_ref().map(|saved| format_timestamp(saved.saved_at)),
            state_bytes: saved.map(|saved| saved.bytes),
            idle_timeout_s: timeouts.idle_s,
            max_lifetime_s: timeouts.lifetime_s,
            on_idle: timeouts.on_idle,
            lifetime_counts: timeouts.lifetime_counts,
            checkpoint_every_s: timeouts.checkpoint_every_s,
            urls,
            ..lock(&self.facts).clone()
        }
    }

    /// Converts an error of the engine, and adds why the sandbox ended if that is the cause.
    pub(crate) fn to_api_error(&self, error: Error) -> ApiError {
        let is_lost = error.kind() == ErrorKind::Lost;
        let mut error = ApiError::from(error);
        if is_lost {
            let body = self.body();
            let end = body.running().and_then(|running| running.sandbox.ended());
            error.ended = end.map(|end| end_reason(&end).into());
        }
        error
    }
}

/// Describes the VM of a sandbox to its callers.
fn describe_vm(facts: &mut SandboxResponse, sandbox: &Sandbox) {
    let inherited = sandbox.inherited_programs();
    let (programs, count) = inherited.map(ProgramResponse::list).unwrap_or_default();
    facts.memory_mib = sandbox.memory_mib();
    facts.source = sandbox.source();
    facts.isolation = sandbox.isolation().clone();
    facts.packages = sandbox.packages().to_vec();
    facts.inherited_programs = programs;
    facts.inherited_program_count = count;
}

/// Returns the word for the end of a sandbox, as the field `ended` has it.
fn end_reason(end: &SandboxEnd) -> &'static str {
    match end {
        SandboxEnd::Requested => "requested",
        SandboxEnd::Idle(_) => "idle",
        SandboxEnd::Lifetime(_) => "lifetime",
        SandboxEnd::Paused(_) => "paused",
        _ => "lost",
    }
}

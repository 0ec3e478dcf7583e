//! The service: its settings, its shared state, its engine and its shutdown.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fumehood_engine::policy::{Document, NetworkLimits};
use fumehood_engine::{ConnectionBudget, Engine, Error, Limits};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::api::requests::OnIdle;
use crate::auth::api_keys::KeyCache;
use crate::auth::rate_limit::RateLimiter;
use crate::error::{ApiError, ApiErrorKind};
use crate::id::new_id;
use crate::owner::Owner;
use crate::state::checkpoints::Checkpoints;
use crate::state::memory_budget::{MemoryBudget, Quota};
use crate::state::metrics::MetricsByOwner;
use crate::state::revocations::Revocations;
use crate::state::runs::RunTable;
use crate::state::sandbox::{SandboxHandle, SavedBody, Starting};
use crate::storage::database::{Store, StoreError};
use crate::storage::idempotency::KeyLocks;
use crate::storage::resume;
use crate::sync::lock;

/// The settings of a service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The path of the state file.
    pub state: PathBuf,
    /// Values of the `Host` header that are allowed beside those of the loopback interface.
    pub allowed_hosts: Vec<String>,
    /// Requests per second of one key, with bursts of twice that; 0 disables the limit. It does not apply to local
    /// callers.
    pub requests_per_second: u32,
    /// How long runs may continue at shutdown.
    pub drain_timeout: Duration,
    /// Concurrent runs of one key.
    pub max_runs_per_key: usize,
    /// Concurrent running sandboxes of one key.
    pub max_sandboxes_per_key: usize,
    /// What happens to idle sandboxes that do not say it themselves. A state in memory ends them.
    pub on_idle: OnIdle,
    /// The paused sandboxes and durable checkpoints of one key.
    pub max_states_per_key: u64,
    /// The disk space of the paused sandboxes and durable checkpoints of one key, in bytes. Once it is reached, no more are
    /// saved.
    pub max_state_bytes_per_key: u64,
    /// How long a paused sandbox and a durable checkpoint are kept, in days.
    pub max_state_days: u64,
    /// The longest timeout that a run may ask for, in seconds. It must be the engine's limit `timeout_s`.
    pub max_timeout_s: u64,
    /// Concurrent connections, lookups and listeners of all VMs with a network; those of one key have a quarter. Each takes
    /// up to two descriptors.
    pub max_vm_connections: usize,
    /// The highest limits that policies of requests with a key may set.
    pub max_network_limits: NetworkLimits,
    /// Whether requests with a key may reach private and other special addresses that their policies name.
    pub allow_private_networks_for_keys: bool,
    /// The network policy of MCP calls that ask for a network. Without one, such calls are rejected.
    pub mcp_policy: Option<Document>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state: Store::default_path(),
            allowed_hosts: Vec::new(),
            requests_per_second: 50,
            drain_timeout: Duration::from_secs(20),
            max_runs_per_key: 32,
            max_sandboxes_per_key: 32,
            on_idle: OnIdle::Pause,
            max_states_per_key: 64,
            max_state_bytes_per_key: 16 * GIB,
            max_state_days: 30,
            max_timeout_s: Limits::default().timeout_s,
            max_vm_connections: DEFAULT_VM_CONNECTIONS,
            max_network_limits: MAX_KEY_LIMITS,
            allow_private_networks_for_keys: false,
            mcp_policy: None,
        }
    }
}

/// Concurrent connections of all VMs. It fits into the descriptors that most hosts allow without a change.
const DEFAULT_VM_CONNECTIONS: usize = 256;

const GIB: u64 = 1024 * 1024 * 1024;

/// Twice what a policy has by default, and ten times the bytes: enough for any browser or installer.
const MAX_KEY_LIMITS: NetworkLimits = NetworkLimits {
    connections: 256,
    connections_per_s: 400,
    bytes_up: 100 * GIB,
    bytes_down: 100 * GIB,
    bytes_per_s: None,
    lookups_per_s: 1000,
};

/// Concurrent runs, and concurrent sandboxes, of local callers. The limit bounds their cost for the server itself.
const MAX_PER_LOCAL_OWNER: usize = 256;

/// How much work on megabytes is done at the same time. More would only take more memory.
const MAX_HEAVY_WORK: usize = 4;

/// How often the engine is started again while something is missing, such as the image.
const ENGINE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long cancelled runs may take at shutdown: SIGINT, SIGTERM, SIGKILL, and a margin.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(15);

/// The service behind HTTP and MCP. Clones share one state.
#[derive(Debug, Clone)]
pub struct Service(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    start_engine: Box<dyn Fn() -> Result<Engine, Error> + Send + Sync>,
    engine: Mutex<EngineState>,
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) key_cache: KeyCache,
    pub(crate) rate_limiter: RateLimiter,
    pub(crate) metrics: MetricsByOwner,
    /// The connections of all VMs, and of those of each key.
    pub(crate) connections: ConnectionBudget,
    pub(crate) connections_by_owner: Mutex<HashMap<Owner, ConnectionBudget>>,
    /// Limits the work on megabytes, each of which takes a thread and several times its size in memory.
    heavy_work: Arc<Semaphore>,
    /// The memory of requests and answers in transit.
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) key_locks: KeyLocks,
    pub(crate) revocations: Revocations,
    pub(crate) runs: Mutex<RunTable>,
    pub(crate) sandboxes: Mutex<HashMap<String, Arc<SandboxHandle>>>,
    /// The last checkpoints that the server has saved of running sandboxes on its own, by the sandboxes' ids.
    pub(crate) automatic: Mutex<HashMap<String, SavedBody>>,
    /// Identifies the state: saved states carry it in their labels.
    pub(crate) server_id: String,
    /// Whether the state is on disk, so that a later server finds it.
    pub(crate) is_durable: bool,
    /// The sandboxes that each owner is starting.
    pub(crate) starting: Mutex<HashMap<Owner, Starting>>,
    pub(crate) checkpoints: Checkpoints,
    draining: watch::Sender<bool>,
    /// Cancelled to end the MCP sessions.
    pub(crate) shutdown_token: CancellationToken,
    /// The number of requests in flight.
    pub(crate) requests: AtomicUsize,
    pub(crate) last_request: Mutex<Instant>,
    /// Notified when a run or a sandbox has ended.
    pub(crate) capacity_freed: Notify,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum EngineState {
    NotStarted,
    Running(Engine),
    /// The last start failed at this time.
    Failed(Instant, ApiError),
}

impl Service {
    /// Opens a service over `engine`. Runs and sandboxes of an earlier server that was killed are recorded as lost.
    ///
    /// Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError`] if another server uses the state, or it cannot be read.
    pub fn open(engine: Engine, settings: Settings) -> Result<Self, StoreError> {
        Self::open_with(move || Ok(engine.clone()), settings)
    }

    /// Opens a service whose engine may lack something yet, such as the image: the engine is started again, at most once
    /// a second, until it succeeds.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        start_engine: impl Fn() -> Result<Engine, Error> + Send + Sync + 'static,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        let store = Store::open_serving(&settings.state)?;
        let service = Self::with(start_engine, store, settings, true)?;
        service.recover()?;
        Ok(service)
    }

    /// Opens a service whose state is only in memory.
    ///
    /// # Errors
    /// [`StoreError`] if SQLite fails.
    pub fn open_in_memory(
        start_engine: impl Fn() -> Result<Engine, Error> + Send + Sync + 'static,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        Self::with(start_engine, Store::in_memory()?, settings, false)
    }

    fn with(
        start_engine: impl Fn() -> Result<Engine, Error> + Send + Sync + 'static,
        store: Store,
        settings: Settings,
        is_durable: bool,
    ) -> Result<Self, StoreError> {
        let new_id = new_id("srv").unwrap_or_default();
        let server_id = resume::server_id(&store, &new_id)?;
        let service = Self(Arc::new(Inner {
            start_engine: Box::new(start_engine),
            engine: Mutex::new(EngineState::NotStarted),
            connections: ConnectionBudget::default()
                .share(settings.max_vm_connections, "of this server's VMs"),
            connections_by_owner: Mutex::default(),
            rate_limiter: RateLimiter::new(settings.requests_per_second),
            settings,
            store,
            key_cache: KeyCache::default(),
            metrics: MetricsByOwner::default(),
            heavy_work: Arc::new(Semaphore::new(MAX_HEAVY_WORK)),
            memory: Arc::default(),
            key_locks: KeyLocks::default(),
            revocations: Revocations::default(),
            runs: Mutex::default(),
            sandboxes: Mutex::default(),
            starting: Mutex::default(),
            automatic: Mutex::default(),
            server_id,
            is_durable,
            checkpoints: Checkpoints::default(),
            draining: watch::Sender::new(false),
            shutdown_token: CancellationToken::new(),
            requests: AtomicUsize::new(0),
            last_request: Mutex::new(Instant::now()),
            capacity_freed: Notify::new(),
        }));

        // Start the engine now if possible; a failure is logged and reported to callers.
        let _ = service.engine();
        service.start_retention();
        service.start_revocation();

        Ok(service)
    }

    /// Returns the engine, and starts it if it does not run yet.
    ///
    /// # Errors
    /// [`ApiErrorKind::Missing`] and others: what must be done on this host first.
    pub fn engine(&self) -> Result<Engine, ApiError> {
        let mut state = lock(&self.0.engine);
        match &*state {
            EngineState::Running(engine) => return Ok(engine.clone()),
            EngineState::Failed(at, error) if at.elapsed() < ENGINE_RETRY_INTERVAL => {
                return Err(error.clone());
            }
            EngineState::NotStarted | EngineState::Failed(..) => {}
        }

        match (self.0.start_engine)() {
            Ok(engine) => {
                *state = EngineState::Running(engine.clone());
                Ok(engine)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot start VMs");
                let error = ApiError::from(error);
                *state = EngineState::Failed(Instant::now(), error.clone());
                Err(error)
            }
        }
    }

    /// Returns the state, which also holds the API keys.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Checks that the server accepts new work.
    ///
    /// # Errors
    /// [`ApiErrorKind::Draining`] once it is shutting down.
    pub(crate) fn ensure_accepting(&self) -> Result<(), ApiError> {
        if *self.0.draining.borrow() {
            let message = "the server is shutting down and accepts no new work; retry later";
            return Err(ApiError::new(ApiErrorKind::Draining, message));
        }
        Ok(())
    }

    /// Returns how many concurrent runs this owner may have.
    pub(crate) fn max_runs(&self, owner: &Owner) -> usize {
        if owner.is_local() {
            MAX_PER_LOCAL_OWNER
        } else {
            self.0.settings.max_runs_per_key
        }
    }

    /// Returns how many concurrent sandboxes this owner may have.
    pub(crate) fn max_sandboxes(&self, owner: &Owner) -> usize {
        if owner.is_local() {
            MAX_PER_LOCAL_OWNER
        } else {
            self.0.settings.max_sandboxes_per_key
        }
    }

    /// Returns the quota of this owner's requests and answers in the server's memory.
    pub(crate) fn quota(&self, owner: &Owner) -> Quota {
        Quota::new(&self.0.memory, owner)
    }

    /// Does work on much data on a thread that serves no other request, after work that was started earlier.
    ///
    /// # Errors
    /// [`ApiErrorKind::Internal`] if the work panics.
    pub(crate) async fn do_heavy_work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.0.heavy_work.clone().acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|error| ApiError::internal(&error))
    }

    /// Whether there is no request, no active run, no running sandbox and no checkpoint in memory.
    fn is_idle(&self) -> bool {
        let inner = &self.0;
        inner.requests.load(Ordering::Relaxed) == 0
            && lock(&inner.sandboxes).values().all(|one| !one.has_vm())
            && lock(&inner.starting).is_empty()
            && inner.checkpoints.is_empty()
            && lock(&inner.runs).active().next().is_none()
    }

    /// Waits until the service has been idle for `time`: without requests, runs, sandboxes and checkpoints.
    pub async fn wait_until_idle(&self, time: Duration) {
        const CHECK_INTERVAL: Duration = Duration::from_millis(200);

        let mut idle_since = Instant::now();

        loop {
            tokio::time::sleep(CHECK_INTERVAL.min(time)).await;

            let last_request = *lock(&self.0.last_request);
            idle_since = if self.is_idle() {
                idle_since.max(last_request)
            } else {
                Instant::now()
            };

            if idle_since.elapsed() >= time {
                return;
            }
        }
    }

    /// Shuts the service down: it accepts no new work, waits for runs, cancels those that remain, and pauses all sandboxes.
    /// Those that cannot be paused within the drain timeout are ended.
    pub async fn drain(&self) {
        self.0.draining.send_replace(true);

        let timeout = self.0.settings.drain_timeout;
        let runs_ended = tokio::time::timeout(timeout, self.wait_for_runs()).await;

        if runs_ended.is_err() {
            let remaining: Vec<_> = lock(&self.0.runs).active().cloned().collect();
            tracing::info!(runs = remaining.len(), "cancelled: the server shuts down");
            remaining.iter().for_each(|task| task.abandon());
            let _ = tokio::time::timeout(CANCEL_TIMEOUT, self.wait_for_runs()).await;
        }

        self.0.shutdown_token.cancel();
        self.pause_all_sandboxes(timeout).await;
        self.0.checkpoints.clear();
    }

    async fn wait_for_runs(&self) {
        loop {
            let capacity_freed = self.0.capacity_freed.notified();
            if lock(&self.0.runs).active().next().is_none() {
                return;
            }
            // A notification that is missed only delays the next look.
            let _ = tokio::time::timeout(Duration::from_millis(100), capacity_freed).await;
        }
    }
}

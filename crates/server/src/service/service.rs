use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fumehood_engine::policy::Document;
use fumehood_engine::{Engine, Error};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::auth::api_keys::Seen;
use crate::auth::rate_limit::Rates;
use crate::error::{ApiError, Kind};
use crate::owner::Owner;
use crate::state::checkpoints::Checkpoints;
use crate::state::metrics::Metrics;
use crate::state::runs::Jobs;
use crate::state::sandbox_handle::Kept;
use crate::storage::database::{Store, StoreError};
use crate::storage::idempotency::Claims;
use crate::storage::records;
use crate::sync::lock;

/// How a service is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file of its state.
    pub state: PathBuf,
    /// Names by which it may be called, beside those of loopback.
    pub hosts: Vec<String>,
    /// Requests a second of one key; bursts are twice that. This user's own processes have no such limit.
    pub rate: u32,
    /// How long runs may go on once it is to end.
    pub drain: Duration,
    /// Runs at once of one key.
    pub runs: usize,
    /// Sandboxes at once of one key.
    pub sandboxes: usize,
    /// Whether what is asked for by a key may reach private addresses and the like, where its policy names them.
    pub keys_reach_special: bool,
    /// What code may reach that an agent asks a network for, by MCP; none: it is given none.
    pub agents_network: Option<Document>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state: Store::default_path(),
            hosts: Vec::new(),
            rate: 50,
            drain: Duration::from_secs(20),
            runs: 32,
            sandboxes: 32,
            keys_reach_special: false,
            agents_network: None,
        }
    }
}

/// Runs or sandboxes at once of this user's own processes: what each costs this side is bounded by that.
const LOCAL: usize = 256;

/// How often a missing image is looked for again.
const LOOK: Duration = Duration::from_secs(1);

/// Everything that callers can have done, whatever way they come. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    start: Box<dyn Fn() -> Result<Engine, Error> + Send + Sync>,
    engine: Mutex<Ready>,
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) seen: Seen,
    pub(crate) rates: Rates,
    pub(crate) metrics: Metrics,
    pub(crate) claims: Claims,
    pub(crate) jobs: Mutex<Jobs>,
    pub(crate) sandboxes: Mutex<HashMap<String, Arc<Kept>>>,
    /// Sandboxes that are being started, by whom.
    pub(crate) starting: Mutex<HashMap<Owner, usize>>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) draining: watch::Sender<bool>,
    pub(crate) stopped: AtomicBool,
    /// Conversations of agents end with it.
    pub(crate) parting: CancellationToken,
    pub(crate) requests: AtomicUsize,
    pub(crate) last_request: Mutex<Instant>,
    /// Something has ended.
    pub(crate) less: Notify,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Ready {
    Engine(Engine),
    Not(Option<(Instant, ApiError)>),
}

impl Service {
    /// A service with this engine. What a server before it has left is told as what it is. Call it inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`StoreError`]: another server runs with that state, or it cannot be read.
    pub fn open(engine: Engine, settings: Settings) -> Result<Self, StoreError> {
        Self::open_with(move || Ok(engine.clone()), settings)
    }

    /// The same with an engine that may be missing something yet, such as the image: it is started again until
    /// it is there.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        start: impl Fn() -> Result<Engine, Error> + Send + Sync + 'static,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        let store = Store::open_serving(&settings.state)?;
        records::recover(&store)?;
        Ok(Self::with(start, store, settings))
    }

    /// The same, with a state that nobody finds again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_in_memory(
        start: impl Fn() -> Result<Engine, Error> + Send + Sync + 'static,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        Ok(Self::with(start, Store::in_memory()?, settings))
    }

    fn with(
        start: impl Fn() -> Result<Engine, Error> + Send + Sync + 'static,
        store: Store,
        settings: Settings,
    ) -> Self {
        let service = Self(Arc::new(Inner {
            start: Box::new(start),
            engine: Mutex::new(Ready::Not(None)),
            rates: Rates::new(settings.rate),
            settings,
            store,
            seen: Seen::default(),
            metrics: Metrics::new(),
            claims: Claims::default(),
            jobs: Mutex::default(),
            sandboxes: Mutex::default(),
            starting: Mutex::default(),
            checkpoints: Checkpoints::default(),
            draining: watch::Sender::new(false),
            stopped: AtomicBool::new(false),
            parting: CancellationToken::new(),
            requests: AtomicUsize::new(0),
            last_request: Mutex::new(Instant::now()),
            less: Notify::new(),
        }));
        let _ = service.engine();
        service.start_retention();
        service
    }

    /// The engine.
    ///
    /// # Errors
    /// [`Kind::Missing`] and the like: what is to be done first.
    pub fn engine(&self) -> Result<Engine, ApiError> {
        let mut ready = lock(&self.0.engine);
        match &*ready {
            Ready::Engine(engine) => return Ok(engine.clone()),
            Ready::Not(Some((at, error))) if at.elapsed() < LOOK => return Err(error.clone()),
            Ready::Not(_) => {}
        }
        match (self.0.start)() {
            Ok(engine) => {
                *ready = Ready::Engine(engine.clone());
                Ok(engine)
            }
            Err(error) => {
                tracing::warn!(%error, "no VMs can be had");
                let error = ApiError::from(error);
                *ready = Ready::Not(Some((Instant::now(), error.clone())));
                Err(error)
            }
        }
    }

    /// The state, for keys.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Refuses new work once it is to end.
    pub(crate) fn takes_work(&self) -> Result<(), ApiError> {
        if *self.0.draining.borrow() {
            let message = "this server is about to end and takes no new work; try again later";
            return Err(ApiError::new(Kind::Draining, message));
        }
        Ok(())
    }

    pub(crate) fn most_runs(&self, owner: &Owner) -> usize {
        if owner.is_local() {
            LOCAL
        } else {
            self.0.settings.runs
        }
    }

    pub(crate) fn most_sandboxes(&self, owner: &Owner) -> usize {
        if owner.is_local() {
            LOCAL
        } else {
            self.0.settings.sandboxes
        }
    }

    /// Whether nothing is there that somebody could want: no request, no run, no sandbox, no checkpoint.
    fn is_idle(&self) -> bool {
        let inner = &self.0;
        inner.requests.load(Ordering::Relaxed) == 0
            && lock(&inner.sandboxes).is_empty()
            && lock(&inner.starting).is_empty()
            && inner.checkpoints.is_empty()
            && lock(&inner.jobs).live().next().is_none()
    }

    /// Waits until nothing has been asked for this long and nothing is there.
    pub async fn idle(&self, time: Duration) {
        const LOOK: Duration = Duration::from_millis(200);
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(LOOK.min(time)).await;
            let last = *lock(&self.0.last_request);
            if self.is_idle() {
                since = since.max(last);
            } else {
                since = Instant::now();
            }
            if since.elapsed() >= time {
                return;
            }
        }
    }

    /// Ends all in good order: no new work, time for runs, then their cancellation, then the sandboxes' end.
    pub async fn drain(&self) {
        self.0.draining.send_replace(true);
        let patience = self.0.settings.drain;
        if tokio::time::timeout(patience, self.no_runs())
            .await
            .is_err()
        {
            let left: Vec<_> = lock(&self.0.jobs).live().cloned().collect();
            tracing::info!(runs = left.len(), "cancelled: the server ends");
            left.iter().for_each(|job| job.cancel());
            // SIGINT, SIGTERM, SIGKILL, and a margin.
            const CANCELLED: Duration = Duration::from_secs(15);
            let _ = tokio::time::timeout(CANCELLED, self.no_runs()).await;
        }
        self.0.stopped.store(true, Ordering::Relaxed);
        self.0.parting.cancel();
        self.end_all_sandboxes().await;
        self.0.checkpoints.clear();
    }

    async fn no_runs(&self) {
        loop {
            let less = self.0.less.notified();
            if lock(&self.0.jobs).live().next().is_none() {
                return;
            }
            // Nothing is lost by looking again.
            let _ = tokio::time::timeout(Duration::from_millis(100), less).await;
        }
    }
}

//! Operations on runs.

use std::sync::Arc;

use fumehood_engine::{Engine, Retry, Run};

use super::service::Service;
use crate::api::object_name::ObjectName;
use crate::api::requests::{OneShotRunRequest, ProcessRequest, SandboxRunRequest, Stdin};
use crate::api::responses::{RunKind, RunResponse, RunState};
use crate::error::{ApiError, ApiErrorKind};
use crate::id::new_id;
use crate::owner::Owner;
use crate::state::run_task::{RunSpec, RunTask, write_all_stdin};
use crate::state::runs::RunLookup;
use crate::storage::idempotency::{IdempotencyKey, KeyGuard, PriorUse};
use crate::storage::records::{self, Filter, Table, find, list};
use crate::sync::lock;

/// The runs or sandboxes in one list, at most.
pub(crate) const MAX_LIST_ITEMS: u32 = 1000;

impl Service {
    /// Runs code in a fresh VM. With an idempotency key that was used for the same request, returns that run.
    ///
    /// # Errors
    /// Why the run was not started. [`ApiErrorKind::Conflict`] if the key was used for another request.
    pub async fn run(
        &self,
        owner: &Owner,
        request: OneShotRunRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<RunLookup, ApiError> {
        let mut run_request = request.to_run_request()?;
        if let Some(network) = &request.network {
            run_request = run_request.network(self.network(owner, network)?);
        }

        let engine = self.engine()?;
        check_memory_limit(&engine, request.memory_mib)?;

        let mut spec = new_spec(owner, None, RunKind::Code)?;
        spec.detach = request.detach;
        spec.stdin = request.stdin;

        self.start_once(spec, key, async { Ok(|| Ok(engine.run(run_request)?)) })
            .await
    }

    /// Runs code in a sandbox. With an idempotency key that was used for the same request, returns that run.
    ///
    /// # Errors
    /// As [`run`](Self::run). [`ApiErrorKind::NotFound`] if there is no such sandbox; [`ApiErrorKind::Lost`] if it has
    /// ended.
    pub async fn run_in_sandbox(
        &self,
        owner: &Owner,
        sandbox_id: &str,
        request: SandboxRunRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<RunLookup, ApiError> {
        // That it has ended is reported only if no earlier run with the same idempotency key exists.
        let sandbox = self.find_sandbox(owner, sandbox_id)?;
        let mut spec = new_spec(owner, Some(sandbox.id()), RunKind::Code)?;
        spec.detach = request.detach;
        let run_request = request.to_run_request();
        spec.stdin = request.stdin;

        self.start_once(spec, key, async {
            let sandbox = self.use_sandbox(&sandbox.into_living()?).await?;
            Ok(move || {
                let run = sandbox.engine_sandbox().run(&run_request);
                run.map_err(|error| sandbox.to_api_error(error))
            })
        })
        .await
    }

    /// Starts a program in a sandbox. With an idempotency key that was used for the same request, returns that run.
    ///
    /// # Errors
    /// As [`run_in_sandbox`](Self::run_in_sandbox).
    pub async fn spawn_in_sandbox(
        &self,
        owner: &Owner,
        sandbox_id: &str,
        request: ProcessRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<RunLookup, ApiError> {
        let sandbox = self.find_sandbox(owner, sandbox_id)?;
        let mut spec = new_spec(owner, Some(sandbox.id()), RunKind::Process)?;
        spec.detach = request.detach;
        spec.has_pty = request.pty.is_some();
        let spawn_request = request.to_spawn_request();
        spec.stdin = request.stdin;

        self.start_once(spec, key, async {
            let sandbox = self.use_sandbox(&sandbox.into_living()?).await?;
            Ok(move || {
                let run = sandbox.engine_sandbox().spawn(&spawn_request);
                run.map_err(|error| sandbox.to_api_error(error))
            })
        })
        .await
    }

    /// Starts a run, unless its idempotency key was used before. `prepare` does what may take time, such as resuming a
    /// sandbox, and returns what starts the run at once.
    async fn start_once<F: FnOnce() -> Result<Run, ApiError>>(
        &self,
        spec: RunSpec,
        key: Option<IdempotencyKey>,
        prepare: impl Future<Output = Result<F, ApiError>>,
    ) -> Result<RunLookup, ApiError> {
        let Some(key) = key else {
            self.ensure_accepting()?;
            let start = prepare.await?;
            return Ok(RunLookup::Active(self.start_run(spec, start)?));
        };

        // The guard blocks other requests with this key until the run is recorded.
        let guard = self.0.key_locks.acquire(&self.0.store, &spec.owner, key);
        let guard = guard.await;
        if let Some(prior) = self.find_prior_run(&spec.owner, &guard)? {
            return Ok(prior);
        }

        self.ensure_accepting()?;
        let start = prepare.await?;

        // The key is recorded first: a run that a killed server has started is never started again.
        guard.record_start(Some(&spec.id))?;
        let id = spec.id.clone();

        match self.start_run(spec, start) {
            Ok(task) => Ok(RunLookup::Active(task)),
            Err(error) => {
                // A run that was started keeps its key, even if a later step failed.
                let was_started = lock(&self.0.runs).by_id.contains_key(&id);
                if !was_started {
                    guard.release();
                }
                Err(error)
            }
        }
    }

    /// Returns the run that the key was used for, unless it failed before its code ran.
    fn find_prior_run(
        &self,
        owner: &Owner,
        guard: &KeyGuard,
    ) -> Result<Option<RunLookup>, ApiError> {
        let id = match guard.prior_use()? {
            PriorUse::Unused => return Ok(None),
            PriorUse::Run(id) => id,
            PriorUse::Response(_) => {
                let message = "this `Idempotency-Key` was used for another request; use a new key";
                return Err(ApiError::new(ApiErrorKind::Conflict, message));
            }
        };

        let run = match self.find_run(owner, &id) {
            Ok(run) => run,
            Err(error) if error.kind == ApiErrorKind::NotFound => {
                let message = "the server stopped while it started a run with this `Idempotency-Key`; \
                               whether the code ran is unknown; use a new key";
                let error = ApiError::new(ApiErrorKind::Conflict, message);
                return Err(error.with_retry(Retry::Unknown));
            }
            Err(error) => return Err(error),
        };

        let retry = match &run {
            RunLookup::Active(task) => task.failure().map(|error| error.retry),
            RunLookup::Archived(run) => run.error.as_ref().map(|error| error.retry),
        };

        let failed_before_it_ran = retry == Some(Retry::Safe);

        Ok((!failed_before_it_ran).then_some(run))
    }

    /// Starts a run and its task. It contains no `await`, so a caller that disconnects cannot interrupt it.
    fn start_run(
        &self,
        spec: RunSpec,
        start: impl FnOnce() -> Result<Run, ApiError>,
    ) -> Result<Arc<RunTask>, ApiError> {
        let (task, run) = {
            let mut runs = lock(&self.0.runs);
            // Check again under the lock: a shutdown either finds this run, or the run is not started.
            self.ensure_accepting()?;

            let max = self.max_runs(&spec.owner);
            let own = runs.active().filter(|task| *task.owner() == spec.owner);

            if own.count() >= max {
                let message = format!(
                    "limit of {max} concurrent runs per key reached; wait for a run to end"
                );
                return Err(ApiError::new(ApiErrorKind::Busy, message));
            }

            let run = start()?;
            let task = RunTask::new(&spec, &run, runs.held_output(&spec.owner));

            if let Stdin::Text(text) = spec.stdin {
                tokio::spawn(write_all_stdin(run.input(), text));
            }

            runs.by_id.insert(spec.id, task.clone());

            (task, run)
        };

        // The start is recorded before the end can be. A run does not need its record: on a full disk it is only in memory,
        // and not among the listed ones. A failure has been logged.
        let recorded = records::insert_run(&self.0.store, task.owner(), &task.response(false));
        self.drive(task.clone(), run, recorded.is_ok());

        Ok(task)
    }

    fn drive(&self, task: Arc<RunTask>, run: Run, is_recorded: bool) {
        let service = self.clone();
        let sandbox = task
            .sandbox()
            .and_then(|id| lock(&self.0.sandboxes).get(id).cloned());

        if let Some(sandbox) = &sandbox {
            sandbox.emit("run_started", &serde_json::json!({ "id": task.id() }));
        }

        let owner = task.owner().clone();
        tokio::spawn(async move {
            let store = &service.0.store;
            let record = |run: RunResponse| {
                service.0.metrics.record_run_end(&owner, &run);
                if let Some(sandbox) = &sandbox {
                    sandbox.emit("run_ended", &run);
                }
                if is_recorded {
                    records::update(store, Table::Runs, &run.id, run.state.as_str(), &run);
                }
            };
            task.clone().drive(run, record).await;
            service.retain_output(task.id());
        });
    }

    /// Returns a run of this owner, from memory or from the records.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if there is none, or it belongs to another owner.
    pub fn find_run(&self, owner: &Owner, id: &str) -> Result<RunLookup, ApiError> {
        let active = lock(&self.0.runs).by_id.get(id).cloned();
        if let Some(task) = active.filter(|task| task.owner() == owner) {
            return Ok(RunLookup::Active(task));
        }

        let archived = find(&self.0.store, Table::Runs, owner, id)?;
        archived
            .map(|run| RunLookup::Archived(Box::new(run)))
            .ok_or_else(|| ApiError::not_found("run", id))
    }

    /// Returns the runs of this owner, the newest first, without outputs.
    ///
    /// # Errors
    /// [`ApiErrorKind::Internal`].
    pub(crate) fn list_runs(
        &self,
        owner: &Owner,
        state: Option<RunState>,
        mut filter: Filter,
    ) -> Result<Vec<RunResponse>, ApiError> {
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        filter.sandbox = filter
            .sandbox
            .map(|sandbox| self.sandbox_id(owner, sandbox));

        // The records only know whether a run is over; its exact state is compared below.
        filter.is_over = state.map(RunState::is_over);
        filter.limit = state.map_or(filter.limit, |_| MAX_LIST_ITEMS);
        let recorded: Vec<RunResponse> = list(&self.0.store, Table::Runs, owner, &filter)?;

        let runs = lock(&self.0.runs);
        let current = recorded
            .into_iter()
            .map(|run| match runs.by_id.get(&run.id) {
                Some(task) => task.response(false),
                None => run,
            });

        let matching = current.filter(|run| state.is_none_or(|state| run.state == state));

        Ok(matching.take(limit).collect())
    }

    /// Returns the id of the sandbox with this id or name. A text that names none stays as it is.
    fn sandbox_id(&self, owner: &Owner, sandbox: String) -> String {
        if sandbox.parse::<ObjectName>().is_err() {
            return sandbox;
        }

        let found = self.find_sandbox(owner, &sandbox).ok();
        found.map_or(sandbox, |found| found.id().to_owned())
    }

    /// Writes to the standard input of a run, and closes it if `close` is set.
    ///
    /// # Errors
    /// [`ApiErrorKind::Conflict`] if the run has no open input, or has ended.
    pub async fn write_stdin(
        &self,
        task: &RunTask,
        bytes: bytes::Bytes,
        close: bool,
    ) -> Result<(), ApiError> {
        let Some(mut input) = task.input() else {
            let message = "this run has no open standard input; start it with `\"stdin\": true`";
            return Err(ApiError::new(ApiErrorKind::Conflict, message));
        };

        let ended = || {
            let message = "the program has ended and accepts no more input";
            ApiError::new(ApiErrorKind::Conflict, message)
        };

        if task.state().is_over() {
            return Err(ended());
        }

        if !bytes.is_empty() {
            input.write(bytes).await.map_err(|_| ended())?;
        }

        if close {
            input.close().await;
        }

        Ok(())
    }
}

/// Rejects more memory than a guest can ever have on this host: that is an invalid request, and no lack of capacity.
pub(super) fn check_memory_limit(engine: &Engine, memory_mib: Option<u32>) -> Result<(), ApiError> {
    let max = engine.capacity().max_guest_mib;
    match memory_mib {
        Some(mib) if mib > max => Err(ApiError::invalid(format!(
            "`memory_mib` is {mib}; a guest on this host may have at most {max} MiB"
        ))),
        _ => Ok(()),
    }
}

fn new_spec(owner: &Owner, sandbox: Option<&str>, kind: RunKind) -> Result<RunSpec, ApiError> {
    Ok(RunSpec {
        id: new_id("run").map_err(|e| ApiError::internal(&e))?,
        owner: owner.clone(),
        sandbox: sandbox.map(str::to_owned),
        kind,
        detach: false,
        stdin: Stdin::default(),
        has_pty: false,
    })
}

//! What callers can have done with runs.

use std::sync::Arc;

use fumehood_engine::Run;

use super::service::Service;
use crate::api::requests::{ProcessBody, RunBody, Stdin};
use crate::api::responses::{RunKind, RunState, RunView};
use crate::error::{ApiError, Kind};
use crate::id::fresh_id;
use crate::owner::Owner;
use crate::state::run_task::{Job, Plan, feed};
use crate::state::runs::Found;
use crate::storage::idempotency::{Before, Claim, Once};
use crate::storage::records::{self, Filter, Table, find, list};
use crate::sync::lock;

/// The most runs or sandboxes of one list.
pub(crate) const LIST: u32 = 1000;

impl Service {
    /// Runs code in a VM of its own.
    ///
    /// # Errors
    /// [`ApiError`]: it was not begun.
    pub async fn run(&self, owner: &Owner, body: &RunBody) -> Result<Arc<Job>, ApiError> {
        live(self.run_once(owner, body, None).await?)
    }

    /// The same under an idempotency key: a run that was begun under it is found again.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Kind::Conflict`].
    pub async fn run_once(
        &self,
        owner: &Owner,
        body: &RunBody,
        once: Option<Once>,
    ) -> Result<Found, ApiError> {
        let request = body.alone()?;
        if let Some(network) = &body.network {
            self.allows(owner, network)?;
        }
        let engine = self.engine()?;
        self.fits(&engine, body.memory_mib)?;
        let plan = plan(owner, None, RunKind::Code, body.detach, &body.stdin)?;
        self.begin(plan, once, || Ok(engine.run(request)?)).await
    }

    /// Runs code in a sandbox.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Kind::NotFound`], [`Kind::Lost`].
    pub async fn run_in(
        &self,
        owner: &Owner,
        sandbox: &str,
        body: &RunBody,
    ) -> Result<Arc<Job>, ApiError> {
        live(self.run_in_once(owner, sandbox, body, None).await?)
    }

    /// The same under an idempotency key.
    ///
    /// # Errors
    /// As [`run_in`](Self::run_in), and [`Kind::Conflict`].
    pub async fn run_in_once(
        &self,
        owner: &Owner,
        sandbox: &str,
        body: &RunBody,
        once: Option<Once>,
    ) -> Result<Found, ApiError> {
        let request = body.within()?;
        let plan = plan(
            owner,
            Some(sandbox),
            RunKind::Code,
            body.detach,
            &body.stdin,
        )?;
        let begin = || {
            let kept = self.sandbox(owner, sandbox)?;
            kept.handle()
                .run(&request)
                .map_err(|error| kept.explain(error))
        };
        self.begin(plan, once, begin).await
    }

    /// Starts a program in a sandbox.
    ///
    /// # Errors
    /// As [`run_in`](Self::run_in).
    pub async fn spawn_in(
        &self,
        owner: &Owner,
        sandbox: &str,
        body: &ProcessBody,
    ) -> Result<Arc<Job>, ApiError> {
        live(self.spawn_in_once(owner, sandbox, body, None).await?)
    }

    /// The same under an idempotency key.
    ///
    /// # Errors
    /// As [`run_in_once`](Self::run_in_once).
    pub async fn spawn_in_once(
        &self,
        owner: &Owner,
        sandbox: &str,
        body: &ProcessBody,
        once: Option<Once>,
    ) -> Result<Found, ApiError> {
        let request = body.request();
        let mut plan = plan(
            owner,
            Some(sandbox),
            RunKind::Process,
            body.detach,
            &body.stdin,
        )?;
        plan.has_terminal = body.pty.is_some();
        let begin = || {
            let kept = self.sandbox(owner, sandbox)?;
            kept.handle()
                .spawn(&request)
                .map_err(|error| kept.explain(error))
        };
        self.begin(plan, once, begin).await
    }

    /// Refuses memory that this host can never give: that is the caller's fault, and no trouble of the host's.
    pub(crate) fn fits(
        &self,
        engine: &fumehood_engine::Engine,
        memory_mib: Option<u32>,
    ) -> Result<(), ApiError> {
        let most = engine.capacity().max_guest_mib;
        match memory_mib.filter(|mib| *mib > most) {
            None => Ok(()),
            Some(mib) => {
                let message = format!(
                    "`memory_mib`: {mib} MiB are more than the {most} that a guest may have on this host"
                );
                Err(ApiError::invalid(message))
            }
        }
    }

    async fn begin(
        &self,
        plan: Plan,
        once: Option<Once>,
        begin: impl FnOnce() -> Result<Run, ApiError>,
    ) -> Result<Found, ApiError> {
        let claim = match once {
            None => None,
            Some(once) => Some(self.0.claims.claim(&self.0.store, &plan.owner, once).await),
        };
        if let Some(found) = claim
            .as_ref()
            .map(|claim| self.begun_before(&plan.owner, claim))
            .transpose()?
            .flatten()
        {
            return Ok(found);
        }
        self.takes_work()?;
        if let Some(claim) = &claim {
            // Before the run: what a killed server has begun is never begun again.
            claim.begin(Some(&plan.id))?;
        }
        let id = plan.id.clone();
        match self.begin_now(plan, begin) {
            Ok(job) => Ok(Found::Live(job)),
            Err(error) => {
                // One that has begun keeps its key, whatever went wrong then.
                let has_begun = lock(&self.0.jobs).by_id.contains_key(&id);
                if let Some(claim) = claim.as_ref().filter(|_| !has_begun) {
                    claim.end(None)?;
                }
                Err(error)
            }
        }
    }

    fn begun_before(&self, owner: &Owner, claim: &Claim) -> Result<Option<Found>, ApiError> {
        let id = match claim.before()? {
            Before::Nothing => return Ok(None),
            Before::Run(id) => id,
            Before::Given(_) => {
                let message = "this `Idempotency-Key` was used for another request; take a new one";
                return Err(ApiError::new(Kind::Conflict, message));
            }
        };
        let found = match self.find_run(owner, &id) {
            Ok(found) => found,
            Err(error) if error.kind == Kind::NotFound => {
                let message = "a run with this `Idempotency-Key` was about to begin when the server went away; \
                               whether it ran is unknown; take a new key";
                let error = ApiError::new(Kind::Conflict, message);
                return Err(ApiError {
                    retry: "unknown",
                    ..error
                });
            }
            Err(error) => return Err(error),
        };
        let failed_before_it_ran = match &found {
            Found::Live(job) => job.failure().is_some_and(|error| error.retry == "safe"),
            Found::Past(view) => view
                .error
                .as_ref()
                .is_some_and(|error| error.retry == "safe"),
        };
        Ok((!failed_before_it_ran).then_some(found))
    }

    /// Begins it, and keeps it from being lost when its caller goes away in the middle.
    fn begin_now(
        &self,
        plan: Plan,
        begin: impl FnOnce() -> Result<Run, ApiError>,
    ) -> Result<Arc<Job>, ApiError> {
        let (job, run) = {
            let mut jobs = lock(&self.0.jobs);
            // Once more, under the lock: who ends all runs finds this one, or it is not begun.
            self.takes_work()?;
            let most = self.most_runs(&plan.owner);
            let live = jobs.live().filter(|job| *job.owner() == plan.owner).count();
            if live >= most {
                let message = format!(
                    "{live} runs go on, the most that one key may have; wait for one to end"
                );
                return Err(ApiError::new(Kind::Busy, message));
            }
            let run = begin()?;
            let job = Job::new(&plan, &run);
            if let Stdin::Text(text) = plan.stdin {
                tokio::spawn(feed(run.input(), text));
            }
            jobs.by_id.insert(plan.id, job.clone());
            (job, run)
        };
        // Before its end can be written.
        let begun = records::run_begins(&self.0.store, job.owner(), &job.view(false));
        self.drive(job.clone(), run);
        if let Err(error) = begun {
            job.cancel();
            return Err(error.into());
        }
        Ok(job)
    }

    fn drive(&self, job: Arc<Job>, run: Run) {
        let service = self.clone();
        let kept = job
            .sandbox()
            .and_then(|id| lock(&self.0.sandboxes).get(id).cloned());
        if let Some(kept) = &kept {
            kept.tell("run_started", &serde_json::json!({ "id": job.id() }));
        }
        tokio::spawn(async move {
            let store = &service.0.store;
            let recorded = |view: RunView| {
                let state = view.state.as_str();
                service.0.metrics.run_ended(&view);
                if let Some(kept) = &kept {
                    kept.tell("run_ended", &view);
                }
                // What cannot be written has been logged, and the caller gets the truth all the same.
                let _ = records::ends(store, Table::Runs, &view.id, state, &view);
            };
            job.clone().drive(run, recorded).await;
            service.keep_for_a_while(job.id());
        });
    }

    /// A run of this owner.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: none, or not theirs.
    pub fn find_run(&self, owner: &Owner, id: &str) -> Result<Found, ApiError> {
        if let Some(job) = lock(&self.0.jobs)
            .by_id
            .get(id)
            .filter(|job| job.owner() == owner)
        {
            return Ok(Found::Live(job.clone()));
        }
        let past = find(&self.0.store, Table::Runs, owner, id)?;
        past.map(|view| Found::Past(Box::new(view)))
            .ok_or_else(|| ApiError::not_found("run", id))
    }

    /// Runs of this owner, the newest first, without outputs.
    ///
    /// # Errors
    /// [`Kind::Internal`].
    pub(crate) fn list_runs(
        &self,
        owner: &Owner,
        state: Option<RunState>,
        mut filter: Filter,
    ) -> Result<Vec<RunView>, ApiError> {
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        filter.is_over = state.map(RunState::is_over);
        // Which of two states it is, is looked at below.
        filter.limit = state.map_or(filter.limit, |_| LIST);
        let views: Vec<RunView> = list(&self.0.store, Table::Runs, owner, &filter)?;
        let jobs = lock(&self.0.jobs);
        let views = views
            .into_iter()
            .map(|view| match jobs.by_id.get(&view.id) {
                Some(job) => job.view(false),
                None => view,
            });
        let wanted = views.filter(|view| state.is_none_or(|state| view.state == state));
        Ok(wanted.take(limit).collect())
    }

    /// Writes to a run's input; with `close`, that is all.
    ///
    /// # Errors
    /// [`Kind::Conflict`]: it has none; [`Kind::Lost`]: it takes no more.
    pub async fn write_stdin(
        &self,
        job: &Job,
        bytes: bytes::Bytes,
        close: bool,
    ) -> Result<(), ApiError> {
        let Some(mut input) = job.input() else {
            let message =
                "this run has no input that could be written to; begin it with `\"stdin\": true`";
            return Err(ApiError::new(Kind::Conflict, message));
        };
        let over = || {
            let message = "the program has ended, and takes no more input";
            ApiError::new(Kind::Conflict, message)
        };
        if job.state().is_over() {
            return Err(over());
        }
        if !bytes.is_empty() {
            input.write(bytes).await.map_err(|_| over())?;
        }
        if close {
            input.close().await;
        }
        Ok(())
    }
}

fn live(found: Found) -> Result<Arc<Job>, ApiError> {
    match found {
        Found::Live(job) => Ok(job),
        Found::Past(view) => Err(ApiError::not_found("run", &view.id)),
    }
}

fn plan(
    owner: &Owner,
    sandbox: Option<&str>,
    kind: RunKind,
    detach: bool,
    stdin: &Stdin,
) -> Result<Plan, ApiError> {
    Ok(Plan {
        id: fresh_id("run").map_err(|e| ApiError::internal(&e))?,
        owner: owner.clone(),
        sandbox: sandbox.map(str::to_owned),
        kind,
        detach,
        stdin: stdin.clone(),
        has_terminal: false,
    })
}

//! Operations on sandboxes.

use std::collections::HashMap;
use std::sync::Arc;

use fumehood_engine::{
    Engine, InstalledPackage, Language, Network, PortMapping, Sandbox, SandboxEnd,
};
use jiff::Timestamp;

use super::idle::IdleWatch;
use super::runs::check_memory_limit;
use super::service::Service;
use crate::api::object_name::ObjectName;
use crate::api::requests::{OnIdle, SandboxRequest, TimeoutsRequest};
use crate::api::sandbox_responses::{SandboxResponse, SandboxState};
use crate::api::timeouts::Timeouts;
use crate::api::timestamp::format_timestamp;
use crate::error::{ApiError, ApiErrorKind};
use crate::id::new_id;
use crate::owner::Owner;
use crate::state::sandbox::{Body, Description, EndCause, SandboxHandle, SandboxLookup};
use crate::storage::records::{self, Filter, Table, find, list};
use crate::sync::lock;

/// Counts sandboxes that are being started against their owner's limit, and reserves their name, until it is dropped.
pub(super) struct StartReservation {
    service: Service,
    owner: Owner,
    count: usize,
    name: Option<ObjectName>,
}

impl Drop for StartReservation {
    fn drop(&mut self) {
        let mut all = lock(&self.service.0.starting);
        if let Some(starting) = all.get_mut(&self.owner) {
            starting.count -= self.count;
            if let Some(name) = &self.name {
                starting.names.remove(name);
            }
            if starting.count == 0 {
                all.remove(&self.owner);
            }
        }
    }
}

impl Service {
    /// Starts a sandbox. Dropping the future cancels the start.
    ///
    /// # Errors
    /// Why the sandbox was not started.
    pub async fn create_sandbox(
        &self,
        owner: &Owner,
        request: &SandboxRequest,
    ) -> Result<Arc<SandboxHandle>, ApiError> {
        // Validate the request.
        self.ensure_accepting()?;
        let timeouts = self.default_timeouts().updated(request.into())?;
        if timeouts.on_idle == OnIdle::Pause || timeouts.checkpoint_every_s.is_some() {
            self.ensure_durable()?;
        }

        let mut description = Description {
            name: request.name.clone(),
            language: request.language,
            network: request.network.clone(),
        };

        if request.language.is_none() && !request.packages.is_empty() {
            let message = "`packages` need a `language`: `python` or `javascript`";
            return Err(ApiError::invalid(message));
        }

        let network = request.network.as_ref();
        if let Some(network) = network {
            self.authorize_network(owner, network)?;
        }

        let engine = self.engine()?;
        check_memory_limit(&engine, request.memory_mib)?;

        // Start it, from a checkpoint or from the image.
        let _reservation = self.reserve(owner, 1, request.name.as_ref())?;

        let sandbox = match &request.checkpoint {
            Some(id) => {
                check_checkpoint_fields(request)?;
                let origin = self.checkpoint_to_open(owner, id, network).await?;
                description.language = origin.language;
                description.network = origin.network;
                engine.open(&origin.checkpoint).await?
            }
            None => {
                let network = network.map(|network| self.network(owner, network));
                start_sandbox(&engine, request, network.transpose()?).await?
            }
        };

        self.adopt(owner, sandbox, description, timeouts)
    }

    /// Reserves the start of `count` sandboxes within the owner's limit, and the name of one of them.
    ///
    /// # Errors
    /// [`ApiErrorKind::Busy`] if the limit would be exceeded; [`ApiErrorKind::Conflict`] if the name is in use.
    pub(super) fn reserve(
        &self,
        owner: &Owner,
        count: usize,
        name: Option<&ObjectName>,
    ) -> Result<StartReservation, ApiError> {
        let max = self.max_sandboxes(owner);
        // Both locks are held, as when a sandbox is registered: it is always in one of the two.
        let all = lock(&self.0.sandboxes);
        let mut starting = lock(&self.0.starting);
        let own = all.values().filter(|one| one.owner() == owner);
        let running = own.filter(|one| one.has_vm()).count();
        let own = starting.get(owner);

        if let Some(name) = name {
            let is_starting = own.is_some_and(|own| own.names.contains(name));
            let user = find_by_name(&all, owner, name.as_str());
            match user {
                Some(sandbox) => return Err(name_conflict(name, sandbox.id())),
                None if is_starting => {
                    return Err(name_conflict(name, "a sandbox that is being started"));
                }
                None => {}
            }
        }

        let reserved = own.map_or(0, |own| own.count);
        if running + reserved + count > max {
            let message = format!(
                "limit of {max} concurrent sandboxes per key reached ({running} are running); end one first"
            );
            return Err(ApiError::new(ApiErrorKind::Busy, message));
        }

        let own = starting.entry(owner.clone()).or_default();
        own.count += count;
        own.names.extend(name.cloned());

        Ok(StartReservation {
            service: self.clone(),
            owner: owner.clone(),
            count,
            name: name.cloned(),
        })
    }

    /// Registers and records a sandbox that the engine has started, and watches it.
    pub(super) fn adopt(
        &self,
        owner: &Owner,
        sandbox: Sandbox,
        description: Description,
        timeouts: Timeouts,
    ) -> Result<Arc<SandboxHandle>, ApiError> {
        let id = new_id("sb").map_err(|e| ApiError::internal(&e))?;
        let engine_sandbox = sandbox.clone();
        let sandbox = SandboxHandle::new(id, owner, sandbox, description, timeouts);

        let recorded = {
            let mut sandboxes = lock(&self.0.sandboxes);
            // Check again under the lock: a shutdown either finds this sandbox, or it ends here.
            self.ensure_accepting()?;
            sandboxes.insert(sandbox.id().to_owned(), sandbox.clone());
            let resume = self.resume_record(&sandbox);
            records::insert_sandbox(&self.0.store, owner, &sandbox.response(), &resume)
        };

        if let Err(error) = recorded {
            lock(&self.0.sandboxes).remove(sandbox.id());
            return Err(error.into());
        }

        tokio::spawn(self.clone().watch(sandbox.clone(), engine_sandbox));

        Ok(sandbox)
    }

    /// Passes on the network events of a VM, pauses or ends its sandbox when it is idle, and records its end.
    pub(super) async fn watch(self, handle: Arc<SandboxHandle>, sandbox: Sandbox) {
        let mut network = sandbox.network_events();
        let mut idle = IdleWatch::new(&sandbox);
        let end = loop {
            let event = async {
                match &mut network {
                    Some(events) => events.recv().await,
                    None => std::future::pending().await,
                }
            };

            tokio::select! {
                event = event => match event {
                    Some(event) => handle.emit("network", &event),
                    None => network = None,
                },
                end = sandbox.wait() => break end,
                () = tokio::time::sleep_until(idle.next_check()) => {
                    self.check_idle(&handle, &sandbox, &mut idle);
                }
            }
        };

        // The state of a paused sandbox is on disk: the sandbox continues from it.
        if !matches!(end, SandboxEnd::Paused(_)) {
            let (ended, why) = handle.end_reason(&end);
            self.finish(&handle, ended, why);
        }
    }

    /// Records the end of a sandbox, and forgets it.
    fn finish(&self, handle: &Arc<SandboxHandle>, ended: &str, why: String) {
        let response = SandboxResponse {
            state: SandboxState::Ended,
            ended_at: Some(format_timestamp(Timestamp::now())),
            ended: Some(ended.into()),
            ended_why: Some(why),
            paused_at: None,
            state_bytes: None,
            urls: Vec::new(),
            ..handle.response()
        };

        // The record is updated before the sandbox is removed, so that a lookup finds one of both.
        records::update(
            &self.0.store,
            Table::Sandboxes,
            handle.id(),
            "ended",
            &response,
        );
        lock(&self.0.sandboxes).remove(handle.id());
        *handle.body() = Body::Ended;

        handle.close_events("ended", &response);
        self.0.metrics.record_sandbox_end(handle.owner(), &response);
        self.0.capacity_freed.notify_waiters();

        let (service, handle) = (self.clone(), handle.clone());
        tokio::spawn(async move { service.delete_automatic_checkpoint(&handle).await });
    }

    /// Records the end of a sandbox that has no VM.
    pub(super) fn finish_as(&self, handle: &Arc<SandboxHandle>, cause: EndCause) {
        let (ended, why) = cause.reason();
        self.finish(handle, ended, why);
    }

    /// Ends a paused sandbox, and deletes its state. Returns `false` if it is not paused.
    pub(super) async fn end_paused(
        &self,
        handle: &Arc<SandboxHandle>,
        ended: &str,
        why: String,
    ) -> bool {
        let saved = {
            let mut body = handle.body();
            let Body::Paused(saved) = &*body else {
                return false;
            };
            let saved = saved.clone();
            *body = Body::Ended;
            saved
        };

        // If the server is killed in between, its successor deletes the state.
        self.finish(handle, ended, why);
        self.delete_state(&saved.state).await;
        true
    }

    /// Returns the sandbox of this owner with this id or name, or the record of one that has ended. A name means the one
    /// that has not ended, or else the newest.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if there is none, or it belongs to another owner.
    pub(crate) fn find_sandbox(&self, owner: &Owner, id: &str) -> Result<SandboxLookup, ApiError> {
        let running = {
            let all = lock(&self.0.sandboxes);
            let with_id = all.get(id).filter(|sandbox| sandbox.owner() == owner);
            with_id.or_else(|| find_by_name(&all, owner, id)).cloned()
        };
        if let Some(sandbox) = running {
            return Ok(SandboxLookup::Living(sandbox));
        }

        let ended = if id.parse::<ObjectName>().is_ok() {
            records::find_sandbox_by_name(&self.0.store, owner, id)?
        } else {
            find(&self.0.store, Table::Sandboxes, owner, id)?
        };
        ended
            .map(|response| SandboxLookup::Ended(Box::new(response)))
            .ok_or_else(|| ApiError::not_found("sandbox", id))
    }

    /// Returns the sandboxes of this owner, the newest first.
    ///
    /// # Errors
    /// [`ApiErrorKind::Internal`].
    pub(crate) fn list_sandboxes(
        &self,
        owner: &Owner,
        state: Option<SandboxState>,
        mut filter: Filter,
    ) -> Result<Vec<SandboxResponse>, ApiError> {
        filter.is_over = state
            .map(|state| state == SandboxState::Ended)
            .or(filter.is_over);
        let recorded: Vec<SandboxResponse> = list(&self.0.store, Table::Sandboxes, owner, &filter)?;

        let running = lock(&self.0.sandboxes);
        let current = recorded
            .into_iter()
            .map(|response| match running.get(&response.id) {
                Some(sandbox) => sandbox.response(),
                None => response,
            });

        let matching = current.filter(|sandbox| state.is_none_or(|state| sandbox.state == state));

        Ok(matching.collect())
    }

    /// Changes the timeouts of a sandbox. The idle timeout counts from the last use, the lifetime from the start.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox), and [`ApiErrorKind::Invalid`].
    pub fn set_timeouts(
        &self,
        owner: &Owner,
        id: &str,
        request: &TimeoutsRequest,
    ) -> Result<SandboxResponse, ApiError> {
        let sandbox = self.find_sandbox(owner, id)?.into_living()?;
        let timeouts = sandbox.timeouts().updated(request.into())?;
        if request.on_idle == Some(OnIdle::Pause) {
            self.ensure_durable()?;
        }

        sandbox.set_timeouts(timeouts);
        self.record_sandbox(&sandbox);
        Ok(sandbox.response())
    }

    /// Ends a sandbox with everything that runs in it. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if there is none, or it belongs to another owner.
    pub async fn end_sandbox(&self, owner: &Owner, id: &str) -> Result<SandboxResponse, ApiError> {
        let sandbox = match self.find_sandbox(owner, id)? {
            SandboxLookup::Living(sandbox) => sandbox,
            SandboxLookup::Ended(response) => return Ok(*response),
        };

        self.end_and_wait(&sandbox, None).await;

        // By its id: a new sandbox may have its name already.
        Ok(self.find_sandbox(owner, sandbox.id())?.into_response())
    }

    /// Ends a sandbox, running or paused, and waits until the end is recorded. `cause` is that of another party than its
    /// owner.
    pub(super) async fn end_and_wait(&self, handle: &Arc<SandboxHandle>, cause: Option<EndCause>) {
        let (ended, why) = match &cause {
            Some(cause) => cause.reason(),
            None => ("requested", SandboxEnd::Requested.to_string()),
        };

        loop {
            if self.end_paused(handle, ended, why.clone()).await {
                return;
            }

            let transition = match &*handle.body() {
                Body::Pausing(_, transition) | Body::Resuming(_, transition) => {
                    Err(transition.clone())
                }
                Body::Running(running) => Ok(running.sandbox.clone()),
                Body::Ended => return,
                Body::Paused(_) => continue,
            };

            match transition {
                // Whether it succeeds or not: the sandbox ends afterwards.
                Err(transition) => drop(transition.wait().await),
                Ok(sandbox) => {
                    if let Some(cause) = cause {
                        handle.set_end_cause(cause);
                    }
                    // The event log is closed once the end is recorded.
                    let mut events = handle.subscribe(u64::MAX);
                    sandbox.end().await;
                    while events.next().await.is_some() {}
                    return;
                }
            }
        }
    }

    /// Installs packages in a sandbox, and returns all packages that are installed in it.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox), and [`ApiErrorKind::Invalid`].
    pub async fn install_packages(
        &self,
        owner: &Owner,
        id: &str,
        language: Language,
        packages: &[String],
    ) -> Result<Vec<InstalledPackage>, ApiError> {
        let sandbox = self.sandbox(owner, id).await?;
        let installed = sandbox.engine_sandbox().install(language, packages).await;
        installed.map_err(|error| sandbox.to_api_error(error))
    }

    /// Exposes a sandbox port on the host's loopback interface, and returns its URL.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox), [`ApiErrorKind::Invalid`], and [`ApiErrorKind::Forbidden`] if the owner may not
    /// choose the host port.
    pub async fn expose_port(
        &self,
        owner: &Owner,
        id: &str,
        port: PortMapping,
    ) -> Result<String, ApiError> {
        self.authorize_port(owner, port)?;
        let sandbox = self.sandbox(owner, id).await?;
        let url = sandbox.engine_sandbox().expose(port);
        let url = url.map_err(|error| sandbox.to_api_error(error))?;
        sandbox.add_port(port, url.clone());
        self.record_sandbox(sandbox.handle());
        Ok(url)
    }
}

/// Returns the sandbox of an owner with this name.
fn find_by_name<'a>(
    all: &'a HashMap<String, Arc<SandboxHandle>>,
    owner: &Owner,
    name: &str,
) -> Option<&'a Arc<SandboxHandle>> {
    all.values().find(|sandbox| {
        sandbox.owner() == owner && sandbox.name().is_some_and(|own| own.as_str() == name)
    })
}

fn name_conflict(name: &ObjectName, user: &str) -> ApiError {
    let message = format!(
        "the name `{name}` is in use by {user}; use that sandbox, end it first, or choose another name"
    );
    ApiError::new(ApiErrorKind::Conflict, message)
}

async fn start_sandbox(
    engine: &Engine,
    request: &SandboxRequest,
    network: Option<Network>,
) -> Result<Sandbox, ApiError> {
    let mut builder = engine.sandbox();
    if let Some(language) = request.language {
        builder = builder.language(language);
    }

    if let Some(mib) = request.memory_mib {
        builder = builder.memory_mib(mib);
    }

    if let Some(network) = network {
        builder = builder.network(network);
    }

    if request.refresh_packages {
        builder = builder.refresh_packages();
    }

    Ok(builder.packages(request.packages.iter().cloned()).await?)
}

/// Rejects fields that a checkpoint already determines: only timeouts and a name may accompany one.
fn check_checkpoint_fields(request: &SandboxRequest) -> Result<(), ApiError> {
    let fields = [
        ("language", request.language.is_some()),
        ("memory_mib", request.memory_mib.is_some()),
        ("packages", !request.packages.is_empty()),
        ("refresh_packages", request.refresh_packages),
    ];

    match fields.iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::invalid(format!(
            "`{name}` cannot be set together with `checkpoint`, which already determines it"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Settings;

    #[tokio::test]
    async fn a_name_is_reserved_once_while_its_sandbox_starts() {
        let none = || Engine::start(fumehood_engine::Config::default());
        let service = Service::open_in_memory(none, Settings::default()).unwrap();
        let (owner, name) = (Owner::key("one"), "box".parse().unwrap());

        let reservation = service.reserve(&owner, 1, Some(&name)).unwrap();
        let error = service.reserve(&owner, 1, Some(&name)).err().unwrap();
        assert_eq!(error.kind, ApiErrorKind::Conflict);
        let others = service.reserve(&Owner::key("other"), 1, Some(&name));
        assert!(others.is_ok());

        drop((reservation, others));
        assert!(lock(&service.0.starting).is_empty());
        assert!(service.reserve(&owner, 1, Some(&name)).is_ok());
    }
}

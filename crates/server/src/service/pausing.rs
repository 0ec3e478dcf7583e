//! Pausing sandboxes and resuming them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_engine::{Error, ErrorKind, Network, PortMapping, ResumeOptions, Retry, Sandbox};
use jiff::Timestamp;

use super::service::Service;
use crate::api::requests::{NetworkRequest, ResumeRequest};
use crate::api::sandbox_responses::SandboxResponse;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::state::metrics::PauseStep;
use crate::state::sandbox::{
    Access, Body, Completion, EndCause, ExposedPort, PauseAccess, Running, SandboxHandle,
    SandboxUse, SavedBody, StateKind, StateLabel,
};
use crate::storage::records;
use crate::storage::resume::{NetworkRecord, ResumeRecord, SavedRecord};
use crate::sync::lock;

/// How long a call waits for a sandbox that is being paused or resumed. A resume itself is bounded by the engine.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// How long a pause waits for operations that were started before it, such as the upload of a file.
const USES_TIMEOUT: Duration = Duration::from_secs(10);

impl Service {
    /// Returns a running sandbox of this owner, for one operation. A paused one is resumed first: callers that come at the
    /// same time wait for one resume, which continues if they disconnect.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if there is none, or it belongs to another owner; [`ApiErrorKind::Lost`] with the
    /// reason if it has ended; and why it cannot be resumed.
    pub async fn sandbox(&self, owner: &Owner, id: &str) -> Result<SandboxUse, ApiError> {
        let handle = self.find_sandbox(owner, id)?.into_living()?;
        self.use_sandbox(&handle).await
    }

    /// Returns this sandbox, running, for one operation.
    pub(super) async fn use_sandbox(
        &self,
        handle: &Arc<SandboxHandle>,
    ) -> Result<SandboxUse, ApiError> {
        match tokio::time::timeout(MAX_WAIT, self.wake(handle)).await {
            Ok(result) => result,
            Err(_) => {
                let message = format!(
                    "sandbox {} was not resumed within {} s; retry later",
                    handle.id(),
                    MAX_WAIT.as_secs()
                );
                Err(ApiError::new(ApiErrorKind::Busy, message))
            }
        }
    }

    async fn wake(&self, handle: &Arc<SandboxHandle>) -> Result<SandboxUse, ApiError> {
        loop {
            match handle.begin_use() {
                Access::Ready(sandbox) => return Ok(sandbox),
                // Whether the pause succeeds or not: this call needs the VM.
                Access::Pausing(transition) => drop(transition.wait().await),
                Access::Resuming(transition) => transition.wait().await?,
                Access::Resume(saved, completion, transition) => {
                    tokio::spawn(self.clone().resume(handle.clone(), saved, completion));
                    transition.wait().await?;
                }
                Access::Ended => {
                    let ended = self.find_sandbox(handle.owner(), handle.id())?;
                    ended.into_living()?;
                    // It is still listed as the record is being written.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Resumes a paused sandbox. One that is running stays so.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox), and [`ApiErrorKind::Conflict`] for secrets of one that is running.
    pub async fn resume_sandbox(
        &self,
        owner: &Owner,
        id: &str,
        request: ResumeRequest,
    ) -> Result<SandboxResponse, ApiError> {
        let handle = self.find_sandbox(owner, id)?.into_living()?;
        if !request.secrets.is_empty() {
            set_secrets(&handle, request)?;
        }

        let sandbox = self.use_sandbox(&handle).await?;
        Ok(sandbox.response())
    }

    /// Pauses a sandbox: its state is on disk when this returns. One that is paused stays so.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] and [`ApiErrorKind::Lost`] as for [`sandbox`](Self::sandbox);
    /// [`ApiErrorKind::Conflict`] while runs or other operations are active in it; [`ApiErrorKind::Busy`] if the owner's
    /// quota of saved states is used up; [`ApiErrorKind::Host`] if the state cannot be written. It then continues.
    pub async fn pause_sandbox(
        &self,
        owner: &Owner,
        id: &str,
    ) -> Result<SandboxResponse, ApiError> {
        let handle = self.find_sandbox(owner, id)?.into_living()?;
        self.pause_handle(&handle).await?;
        Ok(handle.response())
    }

    /// Pauses a sandbox, or waits until it is paused.
    pub(super) async fn pause_handle(&self, handle: &Arc<SandboxHandle>) -> Result<(), ApiError> {
        self.ensure_durable()?;
        loop {
            match handle.begin_pause() {
                PauseAccess::Paused => return Ok(()),
                PauseAccess::Pausing(transition) => return transition.wait().await,
                PauseAccess::Resuming(transition) => transition.wait().await?,
                PauseAccess::Start(running, completion, transition) => {
                    tokio::spawn(self.clone().pause(handle.clone(), running, completion));
                    return transition.wait().await;
                }
                PauseAccess::Ended => {
                    self.find_sandbox(handle.owner(), handle.id())?
                        .into_living()?;
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// The task of a pause: it continues if its callers disconnect.
    async fn pause(self, handle: Arc<SandboxHandle>, running: Running, completion: Completion) {
        let started = Instant::now();
        let result = self.save_and_end(&handle, &running).await;
        self.0.metrics.record_pause(
            handle.owner(),
            PauseStep::Pause,
            result.is_ok(),
            started.elapsed(),
        );

        match &result {
            Ok(saved) => {
                tracing::info!(
                    sandbox = handle.id(),
                    bytes = saved.bytes,
                    ms = started.elapsed().as_millis(),
                    "paused"
                );
                *handle.body() = Body::Paused(saved.clone());
                self.record_sandbox(&handle);
                handle.emit("paused", &handle.response());
                self.0.capacity_freed.notify_waiters();
            }
            Err(error) => {
                tracing::warn!(sandbox = handle.id(), error = %error.message, "not paused");
                let mut body = handle.body();
                // It may have ended meanwhile.
                if let Body::Pausing(running, _) = &*body {
                    *body = Body::Running(running.clone());
                }
                drop(body);
                handle.touch();
            }
        }
        completion.set(result.map(drop));
    }

    async fn save_and_end(
        &self,
        handle: &Arc<SandboxHandle>,
        running: &Running,
    ) -> Result<SavedBody, ApiError> {
        // New operations wait since the sandbox is `pausing`. Those that were started before it have a while to end.
        let deadline = Instant::now() + USES_TIMEOUT;
        while handle.uses() > 0 {
            if Instant::now() >= deadline {
                let message = "operations are active in this sandbox; wait for their end";
                let error = ApiError::new(ApiErrorKind::Conflict, message);
                return Err(error.with_retry(Retry::Safe));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }

        self.ensure_no_active_runs(handle)?;
        self.check_state_quota(handle.owner())?;

        let label = self.label(handle, StateKind::Pause).to_string();
        let ran = running.ran();
        let saved = running.sandbox.pause(&label).await;
        let saved = saved.map_err(|error| handle.to_api_error(error))?;

        // The newest state is the only one that counts.
        self.delete_automatic_checkpoint(handle).await;

        Ok(SavedBody {
            state: saved.id,
            saved_at: Timestamp::now(),
            bytes: saved.disk_bytes,
            ran,
            is_checkpoint: false,
        })
    }

    /// The task of a resume: it continues if its callers disconnect.
    async fn resume(self, handle: Arc<SandboxHandle>, saved: SavedBody, completion: Completion) {
        let started = Instant::now();
        let result = self.restore(&handle, &saved).await;
        self.0.metrics.record_pause(
            handle.owner(),
            PauseStep::Resume,
            result.is_ok(),
            started.elapsed(),
        );

        let result = match result {
            Ok(sandbox) => {
                tracing::info!(
                    sandbox = handle.id(),
                    ms = started.elapsed().as_millis(),
                    "resumed"
                );
                self.restore_ports(&handle, &sandbox);
                handle.set_running(sandbox.clone(), &saved);
                self.record_sandbox(&handle);
                handle.emit("resumed", &handle.response());
                tokio::spawn(self.clone().watch(handle.clone(), sandbox));
                Ok(())
            }
            Err(RestoreError::StateLost(error)) => {
                tracing::error!(sandbox = handle.id(), error = %error.message, "its saved state is lost");
                self.finish_as(&handle, EndCause::StateLost);
                Err(error)
            }
            Err(RestoreError::Other(error)) => {
                tracing::warn!(sandbox = handle.id(), error = %error.message, "not resumed");
                let mut body = handle.body();
                if matches!(&*body, Body::Resuming(..)) {
                    *body = Body::Paused(saved);
                }
                Err(error)
            }
        };
        completion.set(result);
    }

    async fn restore(
        &self,
        handle: &Arc<SandboxHandle>,
        saved: &SavedBody,
    ) -> Result<Sandbox, RestoreError> {
        self.ensure_accepting()?;
        let engine = self.engine()?;
        self.check_running_limit(handle.owner())?;

        let request = handle.network_request();
        let network = request.map(|request| self.resumed_network(handle.owner(), &request));
        let options = ResumeOptions {
            network: network.transpose()?,
            keep_identity: Some(true),
            ..ResumeOptions::default()
        };

        let resumed = engine.resume(&saved.state, options).await;
        resumed.map_err(|error| match error.kind() {
            ErrorKind::Missing => {
                let message =
                    "the saved state of this sandbox no longer exists; start a new sandbox";
                let error = ApiError::new(ApiErrorKind::Lost, message).with_retry(Retry::Never);
                RestoreError::StateLost(ApiError {
                    ended: Some("server_lost".into()),
                    ..error
                })
            }
            _ => RestoreError::Other(resume_error(error)),
        })
    }

    /// Returns the network of a resumed sandbox. Its ports are exposed later: they keep their numbers if these are free.
    fn resumed_network(
        &self,
        owner: &Owner,
        request: &NetworkRequest,
    ) -> Result<Network, ApiError> {
        let request = NetworkRequest {
            expose: Vec::new(),
            ..request.clone()
        };
        self.network(owner, &request)
    }

    /// Exposes the ports of a resumed sandbox again.
    fn restore_ports(&self, handle: &SandboxHandle, sandbox: &Sandbox) {
        let ports = handle.ports().into_iter().map(|port| {
            let host = port_of(&port.url).unwrap_or(port.mapping.host);
            let attempts = [host, port.mapping.host].map(|host| PortMapping {
                host,
                ..port.mapping
            });

            let exposed = attempts.into_iter().find_map(|mapping| sandbox.expose(mapping).ok());
            if exposed.is_none() {
                tracing::warn!(sandbox = handle.id(), port = %port.mapping, "cannot expose the port again");
            }
            ExposedPort {
                mapping: port.mapping,
                url: exposed.unwrap_or_default(),
            }
        });
        handle.set_ports(ports.collect());
    }

    /// Records a sandbox that has not ended, with the data with which a later server resumes it.
    pub(super) fn record_sandbox(&self, handle: &SandboxHandle) {
        let resume = self.resume_record(handle);
        records::update_sandbox(&self.0.store, &handle.response(), &resume);
    }

    pub(super) fn resume_record(&self, handle: &SandboxHandle) -> ResumeRecord {
        let saved = {
            let body = handle.body();
            body.saved().cloned()
        };
        let saved = saved.or_else(|| lock(&self.0.automatic).get(handle.id()).cloned());

        ResumeRecord {
            timeouts: handle.timeouts(),
            network: handle.network_request().as_ref().map(NetworkRecord::from),
            ports: handle
                .ports()
                .iter()
                .map(|port| port.mapping.to_string())
                .collect(),
            saved: saved.as_ref().map(SavedRecord::from),
        }
    }

    /// Returns the label of a saved state of this sandbox.
    pub(super) fn label(&self, handle: &SandboxHandle, kind: StateKind) -> StateLabel {
        StateLabel {
            server: self.0.server_id.clone(),
            kind,
            owner: handle.owner().as_str().to_owned(),
            id: handle.id().to_owned(),
            name: handle.name().cloned(),
            language: handle.language(),
        }
    }
}

/// Why a sandbox was not resumed.
enum RestoreError {
    /// It never can be.
    StateLost(ApiError),
    Other(ApiError),
}

impl From<ApiError> for RestoreError {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

/// A call that needs a resume was not carried out, so it may be repeated.
fn resume_error(error: Error) -> ApiError {
    let error = ApiError::from(error);
    let message = format!("cannot resume the sandbox: {}", error.message);
    ApiError { message, ..error }
}

fn set_secrets(handle: &SandboxHandle, request: ResumeRequest) -> Result<(), ApiError> {
    if handle.has_vm() {
        let message = "this sandbox is running; `secrets` can be set when a paused one is resumed";
        return Err(ApiError::new(ApiErrorKind::Conflict, message));
    }

    let Some(mut network) = handle.network_request() else {
        let message = "`secrets`: this sandbox has no network";
        return Err(ApiError::invalid(message));
    };
    network.secrets.extend(request.secrets);
    network.to_network()?;
    handle.set_network_request(network);
    Ok(())
}

/// Returns the port of a URL such as `http://127.0.0.1:8080`.
fn port_of(url: &str) -> Option<u16> {
    url.trim_end_matches('/').rsplit_once(':')?.1.parse().ok()
}

impl From<&SavedBody> for SavedRecord {
    fn from(saved: &SavedBody) -> Self {
        Self {
            state: saved.state.to_string(),
            saved_at_ms: saved.saved_at.as_millisecond(),
            bytes: saved.bytes,
            ran_ms: u64::try_from(saved.ran.as_millis()).unwrap_or(u64::MAX),
            is_checkpoint: saved.is_checkpoint,
        }
    }
}

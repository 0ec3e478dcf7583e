//! When a sandbox is idle: no operation, no connection to its ports, and no program that computes.

use std::sync::Arc;
use std::time::Duration;

use fumehood_engine::Sandbox;
use jiff::Timestamp;
use tokio::time::Instant;

use super::service::Service;
use crate::api::requests::OnIdle;
use crate::error::ApiError;
use crate::state::sandbox::{Body, EndCause, PauseAccess, SandboxHandle, SavedBody, StateKind};
use crate::sync::lock;

/// How often a sandbox is looked at, at least and at most.
const CHECK_INTERVAL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// The share of one processor, in percent, from which a guest counts as working. An idle one takes less than 2 %.
const WORK_PERCENT: u128 = 10;

/// The observed use of a VM.
#[derive(Debug)]
pub(super) struct IdleWatch {
    next_check: Instant,
    checked: Instant,
    cpu_time: Option<Duration>,
    last_work: Instant,
    last_save: Instant,
    has_worked_since_save: bool,
    save: Option<tokio::task::JoinHandle<()>>,
}

impl IdleWatch {
    pub(super) fn new(sandbox: &Sandbox) -> Self {
        let now = Instant::now();
        Self {
            next_check: now + CHECK_INTERVAL.0,
            checked: now,
            cpu_time: sandbox.cpu_time(),
            last_work: now,
            last_save: now,
            has_worked_since_save: true,
            save: None,
        }
    }

    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Looks whether the VM is in use, and returns for how long it has not been.
    fn idle_for(&mut self, handle: &SandboxHandle, sandbox: &Sandbox) -> Duration {
        let (now, cpu_time) = (Instant::now(), sandbox.cpu_time());
        let passed = now - self.checked;
        let worked = match (cpu_time, self.cpu_time) {
            (Some(now), Some(before)) => now.saturating_sub(before),
            // Without this figure, only operations and connections count.
            _ => Duration::ZERO,
        };
        (self.checked, self.cpu_time) = (now, cpu_time);

        let activity = sandbox.activity();
        let computes = worked.as_micros() * 100 > passed.as_micros() * WORK_PERCENT;
        let is_used =
            activity.operations > 0 || activity.inbound_connections > 0 || handle.uses() > 0;

        // The server's own save is no work.
        let is_saved = self.save.take_if(|save| save.is_finished()).is_some();
        if (is_used || computes) && self.save.is_none() && !is_saved {
            self.last_work = now;
            self.has_worked_since_save = true;
        }

        let unused = handle.unused_for().min(activity.idle_for);
        unused.min(self.last_work.elapsed())
    }
}

impl Service {
    /// Pauses or ends a sandbox that is idle, and saves one that asked for that.
    pub(super) fn check_idle(
        &self,
        handle: &Arc<SandboxHandle>,
        sandbox: &Sandbox,
        watch: &mut IdleWatch,
    ) {
        let timeouts = handle.timeouts();
        let timeout = Duration::from_secs(timeouts.idle_s);
        let idle_for = watch.idle_for(handle, sandbox);
        let interval = (timeout / 10).clamp(CHECK_INTERVAL.0, CHECK_INTERVAL.1);
        watch.next_check = Instant::now() + interval;

        let is_running = matches!(&*handle.body(), Body::Running(_));
        if !is_running || self.ensure_accepting().is_err() {
            return;
        }

        if idle_for >= timeout {
            let (service, handle, sandbox) = (self.clone(), handle.clone(), sandbox.clone());
            match timeouts.on_idle {
                // A failure is logged, and tried again after another timeout.
                OnIdle::Pause => {
                    tokio::spawn(async move { drop(service.pause_handle(&handle).await) });
                }
                OnIdle::End => {
                    handle.set_end_cause(EndCause::Idle(timeouts.idle_s));
                    tokio::spawn(async move { sandbox.end().await });
                }
            }
            return;
        }

        if let Some(every_s) = timeouts.checkpoint_every_s
            && watch.last_save.elapsed() >= Duration::from_secs(every_s)
            && watch.has_worked_since_save
            && watch.save.is_none()
        {
            watch.last_save = Instant::now();
            watch.has_worked_since_save = false;
            let (service, handle) = (self.clone(), handle.clone());
            watch.save = Some(tokio::spawn(async move {
                if let Err(error) = service.save_running(&handle).await {
                    tracing::warn!(sandbox = handle.id(), error = %error.message, "not saved");
                }
            }));
        }
    }

    /// Saves a running sandbox, which continues. Calls wait while its memory is copied.
    async fn save_running(&self, handle: &Arc<SandboxHandle>) -> Result<(), ApiError> {
        self.ensure_no_active_runs(handle)?;
        let PauseAccess::Start(running, completion, _) = handle.begin_pause() else {
            return Ok(());
        };

        let copied = match (handle.uses(), self.ensure_no_active_runs(handle)) {
            (0, Ok(())) => running.sandbox.checkpoint().await.map_err(ApiError::from),
            (0, Err(error)) => Err(error),
            _ => Err(ApiError::invalid("operations are active in it")),
        };

        let (ran, saved_at) = (running.ran(), Timestamp::now());
        {
            let mut body = handle.body();
            if matches!(&*body, Body::Pausing(..)) {
                *body = Body::Running(running);
            }
        }
        completion.set(Ok(()));

        let label = self.label(handle, StateKind::Automatic).to_string();
        let saved = copied?.save(&label).await?;
        let saved = SavedBody {
            state: saved.id,
            saved_at,
            bytes: saved.disk_bytes,
            ran,
            is_checkpoint: true,
        };

        // While this lasts, the sandbox is neither paused nor ended. If it already was, the older state does not count.
        let Some(_use) = handle.try_use() else {
            self.delete_state(&saved.state).await;
            return Ok(());
        };
        let earlier = lock(&self.0.automatic).insert(handle.id().to_owned(), saved);
        self.record_sandbox(handle);
        if let Some(earlier) = earlier {
            self.delete_state(&earlier.state).await;
        }
        Ok(())
    }

    /// Deletes the checkpoint that the server has saved on its own.
    pub(super) async fn delete_automatic_checkpoint(&self, handle: &SandboxHandle) {
        let saved = lock(&self.0.automatic).remove(handle.id());
        if let Some(saved) = saved {
            self.delete_state(&saved.state).await;
        }
    }
}

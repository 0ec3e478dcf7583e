//! The body of a sandbox: a VM, a saved state, or the transition from one to the other.

use std::time::{Duration, Instant};

use fumehood_engine::{Sandbox, StateId};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::api::sandbox_responses::SandboxState;
use crate::error::ApiError;

/// The body of a sandbox.
#[derive(Debug)]
pub(crate) enum Body {
    Running(Running),
    /// Its state is being saved; calls wait.
    Pausing(Running, Transition),
    Paused(SavedBody),
    /// Its VM is being restored; calls wait.
    Resuming(SavedBody, Transition),
    Ended,
}

/// A VM, and when it was started.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) sandbox: Sandbox,
    pub(crate) since: Instant,
    /// How long the sandbox ran in earlier VMs.
    pub(crate) ran_before: Duration,
}

impl Running {
    /// Returns how long the sandbox has been running, without the time in which it was paused.
    pub(crate) fn ran(&self) -> Duration {
        self.ran_before + self.since.elapsed()
    }
}

/// A state on disk, from which the sandbox continues.
#[derive(Debug, Clone)]
pub(crate) struct SavedBody {
    pub(crate) state: StateId,
    pub(crate) saved_at: Timestamp,
    pub(crate) bytes: u64,
    /// How long the sandbox had been running.
    pub(crate) ran: Duration,
    /// Whether the server saved it on its own, and later changes of the sandbox were lost with an earlier server.
    pub(crate) is_checkpoint: bool,
}

impl Body {
    pub(crate) fn state(&self) -> SandboxState {
        match self {
            Self::Running(_) => SandboxState::Running,
            Self::Pausing(..) => SandboxState::Pausing,
            Self::Paused(_) => SandboxState::Paused,
            Self::Resuming(..) => SandboxState::Resuming,
            Self::Ended => SandboxState::Ended,
        }
    }

    /// Returns the VM.
    pub(crate) fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) | Self::Pausing(running, _) => Some(running),
            _ => None,
        }
    }

    /// Returns the state on disk.
    pub(crate) fn saved(&self) -> Option<&SavedBody> {
        match self {
            Self::Paused(saved) | Self::Resuming(saved, _) => Some(saved),
            _ => None,
        }
    }
}

/// A change from one body to another that is in progress. Clones wait for the same change.
#[derive(Debug, Clone)]
pub(crate) struct Transition(watch::Receiver<Option<Result<(), ApiError>>>);

/// Ends a [`Transition`]. Dropping it without a result is a failure.
#[derive(Debug)]
pub(crate) struct Completion(watch::Sender<Option<Result<(), ApiError>>>);

impl Transition {
    pub(crate) fn start() -> (Completion, Self) {
        let (sender, receiver) = watch::channel(None);
        (Completion(sender), Self(receiver))
    }

    /// Waits for the end of the change.
    ///
    /// # Errors
    /// Why it failed.
    pub(crate) async fn wait(mut self) -> Result<(), ApiError> {
        match self.0.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err(ApiError::internal(
                &"the task of a pause or a resume failed",
            )),
        }
    }
}

impl Completion {
    pub(crate) fn set(self, result: Result<(), ApiError>) {
        self.0.send_replace(Some(result));
    }
}

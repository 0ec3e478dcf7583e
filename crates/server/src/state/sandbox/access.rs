//! The ways to a sandbox's VM: an operation uses it, and resumes it first if it is paused; a pause takes it away.

use std::sync::Arc;

use fumehood_engine::Sandbox;

use super::body::{Body, Completion, Running, SavedBody, Transition};
use super::handle::SandboxHandle;

/// The use of a running sandbox by one operation: it is not paused while this exists.
#[derive(Debug)]
pub struct SandboxUse {
    handle: Arc<SandboxHandle>,
    sandbox: Sandbox,
}

impl SandboxUse {
    /// Called with the body locked.
    pub(super) fn new(handle: Arc<SandboxHandle>, sandbox: Sandbox) -> Self {
        handle.count_use(true);
        Self { handle, sandbox }
    }

    /// Returns the engine's sandbox.
    #[must_use]
    pub fn engine_sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Returns the handle, without keeping the sandbox from being paused.
    pub(crate) fn handle(&self) -> &Arc<SandboxHandle> {
        &self.handle
    }
}

impl Drop for SandboxUse {
    fn drop(&mut self) {
        self.handle.count_use(false);
    }
}

impl std::ops::Deref for SandboxUse {
    type Target = SandboxHandle;

    fn deref(&self) -> &SandboxHandle {
        &self.handle
    }
}

/// The answer to an operation that needs the VM.
#[derive(Debug)]
pub(crate) enum Access {
    Ready(SandboxUse),
    /// The sandbox is being paused.
    Pausing(Transition),
    /// The sandbox is being resumed.
    Resuming(Transition),
    /// The sandbox has to be resumed: the caller that gets this does it.
    Resume(SavedBody, Completion, Transition),
    Ended,
}

/// The answer to a caller that pauses a sandbox.
#[derive(Debug)]
pub(crate) enum PauseAccess {
    /// The caller pauses it.
    Start(Running, Completion, Transition),
    Pausing(Transition),
    Resuming(Transition),
    Paused,
    Ended,
}

impl SandboxHandle {
    /// Starts an operation that needs the VM. A paused sandbox changes to `resuming`.
    pub(crate) fn begin_use(self: &Arc<Self>) -> Access {
        let mut body = self.body();
        match &*body {
            Body::Running(running) => {
                Access::Ready(SandboxUse::new(self.clone(), running.sandbox.clone()))
            }
            Body::Pausing(_, transition) => Access::Pausing(transition.clone()),
            Body::Resuming(_, transition) => Access::Resuming(transition.clone()),
            Body::Paused(saved) => {
                let (saved, (completion, transition)) = (saved.clone(), Transition::start());
                *body = Body::Resuming(saved.clone(), transition.clone());
                Access::Resume(saved, completion, transition)
            }
            Body::Ended => Access::Ended,
        }
    }

    /// Starts an operation if the sandbox is running.
    pub(crate) fn try_use(self: &Arc<Self>) -> Option<SandboxUse> {
        match &*self.body() {
            Body::Running(running) => Some(SandboxUse::new(self.clone(), running.sandbox.clone())),
            _ => None,
        }
    }

    /// Starts a pause. A running sandbox changes to `pausing`.
    pub(crate) fn begin_pause(&self) -> PauseAccess {
        let mut body = self.body();
        match &*body {
            Body::Running(running) => {
                let (running, (completion, transition)) = (running.clone(), Transition::start());
                *body = Body::Pausing(running.clone(), transition.clone());
                PauseAccess::Start(running, completion, transition)
            }
            Body::Pausing(_, transition) => PauseAccess::Pausing(transition.clone()),
            Body::Resuming(_, transition) => PauseAccess::Resuming(transition.clone()),
            Body::Paused(_) => PauseAccess::Paused,
            Body::Ended => PauseAccess::Ended,
        }
    }
}

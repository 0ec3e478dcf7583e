//! A run in progress, in this process or on a server.

use fumehood_engine::{Event, Outcome, Run, RunControl};

use super::super::server_client::ServerRun;
use crate::io::StdinForwarder;
use crate::outcome::Failure;

/// A run in progress. Dropping it ends the program.
pub(super) enum RunBackend {
    /// An engine in this process.
    Local(Run),
    /// A server.
    Server(Box<ServerRun>),
}

impl RunBackend {
    /// Returns the next event, or `None` after the last one.
    pub(super) async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Local(run) => run.next().await,
            Self::Server(run) => run.next().await,
        }
    }

    /// Returns a function that cancels the run.
    pub(super) fn canceller(&self) -> Box<dyn Fn() + Send> {
        match self {
            Self::Local(run) => {
                let control = run.canceller();
                Box::new(move || control.cancel())
            }
            Self::Server(run) => Box::new(run.canceller()),
        }
    }

    /// Returns the control of a run in this process.
    pub(super) fn local_control(&self) -> Option<RunControl> {
        match self {
            Self::Local(run) => Some(run.canceller()),
            Self::Server(_) => None,
        }
    }

    /// Starts to forward standard input to the program.
    pub(super) fn forward_stdin(&self) -> StdinForwarder {
        match self {
            Self::Local(run) => StdinForwarder::to_pipe(run.input()),
            Self::Server(run) => run.forward_stdin(),
        }
    }

    /// Waits for the outcome. Further events are dropped.
    ///
    /// # Errors
    /// The run has no outcome.
    pub(super) async fn outcome(self) -> Result<Outcome, Failure> {
        match self {
            Self::Local(run) => Ok(run.outcome().await?),
            Self::Server(run) => run.outcome().await,
        }
    }
}

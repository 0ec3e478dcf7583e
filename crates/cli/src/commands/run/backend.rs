use fumehood_engine::{Event, Run};

use super::server_client;
use crate::io;
use crate::outcome::{Ended, Failure};

/// A run that goes on, whoever drives it. Dropping it ends it.
pub(crate) enum Going {
    /// An engine of this command's own.
    Here(Run),
    /// A server.
    There(Box<server_client::Running>),
}

/// Passes this command's standard input on, until it is dropped.
#[expect(dead_code, reason = "held for its drop")]
pub(crate) enum Feeding {
    Here(io::Feeding),
    There(server_client::Feeding),
}

impl Going {
    /// What it tells next; none when all has been told.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Here(run) => run.next().await,
            Self::There(running) => running.next().await,
        }
    }

    /// Something that asks for its end.
    pub(crate) fn canceller(&self) -> Box<dyn Fn() + Send> {
        match self {
            Self::Here(run) => {
                let canceller = run.canceller();
                Box::new(move || canceller.cancel())
            }
            Self::There(running) => Box::new(running.canceller()),
        }
    }

    /// Passes this command's standard input on.
    pub(crate) fn feed(&self) -> Feeding {
        match self {
            Self::Here(run) => Feeding::Here(io::Feeding::begin(run.input())),
            Self::There(running) => Feeding::There(running.feed()),
        }
    }

    /// How it ended.
    ///
    /// # Errors
    /// [`Failure`]: it has no outcome.
    pub(crate) async fn end(self) -> Result<Ended, Failure> {
        match self {
            Self::Here(run) => Ok(run.outcome().await?.into()),
            Self::There(running) => running.outcome().await,
        }
    }
}

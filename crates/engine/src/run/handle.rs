use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::control::{Control, Controls, Input, RunControl, controls};
use super::event::Event;
use super::outcome::Outcome;
use crate::error::{Error, ErrorKind};

/// A run in progress. Dropping it ends its program at once, and its VM, if that is its own.
#[derive(Debug)]
pub struct Run {
    events: mpsc::Receiver<Event>,
    driver: JoinHandle<Result<RunEnd, Error>>,
    canceller: RunControl,
    input: Input,
    has_key: bool,
}

/// How a run's driver ended.
#[derive(Debug)]
pub(crate) enum RunEnd {
    Outcome(Box<Outcome>),
    /// The program goes on by itself.
    Detached,
}

/// Events on their way to a caller. With chunks of 64 KiB a caller that does not read holds 1 MiB.
const EVENTS: usize = 16;

impl Run {
    /// Starts the task that drives it.
    pub(crate) fn drive<F>(driver: impl FnOnce(mpsc::Sender<Event>, Controls) -> F) -> Self
    where
        F: Future<Output = Result<RunEnd, Error>> + Send + 'static,
    {
        let (events, inbox) = mpsc::channel(EVENTS);
        let (canceller, input, controls) = controls();
        let driver = tokio::spawn(driver(events, controls));
        Self {
            events: inbox,
            driver,
            canceller,
            input,
            has_key: false,
        }
    }

    /// It can be found again by a key, or cannot.
    pub(crate) fn with_key(mut self, has_key: bool) -> Self {
        self.has_key = has_key;
        self
    }

    /// What it tells next; `None` when all has been told. A caller that waits makes the program
    /// wait: nothing is dropped and little is held.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Something that can cancel it from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> RunControl {
        self.canceller.clone()
    }

    /// Its standard input, where the request asked for one.
    #[must_use]
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// How it ended. Output that was not taken is dropped.
    ///
    /// # Errors
    /// [`Error`]: the run has no outcome; [`Error::retry`] tells whether the code may have run.
    pub async fn outcome(mut self) -> Result<Outcome, Error> {
        match self.end().await? {
            RunEnd::Outcome(outcome) => Ok(*outcome),
            RunEnd::Detached => Err(Error::new(
                ErrorKind::Lost,
                "the run goes on, and is followed by somebody else who attached to it",
            )
            .after_start()),
        }
    }

    /// Leaves the program to itself: it goes on, and can be followed again by
    /// [`Sandbox::attach`](crate::Sandbox::attach). `Some`: it had ended before.
    ///
    /// # Errors
    /// As [`outcome`](Self::outcome), and [`ErrorKind::Invalid`] for a run without idempotency key, which
    /// nobody could find again: it is cancelled, as by dropping it.
    pub async fn detach(mut self) -> Result<Option<Outcome>, Error> {
        if !self.has_key {
            let message =
                "a run without idempotency key cannot be found again; give its request one";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.canceller.ask(Control::Detach);
        match self.end().await? {
            RunEnd::Outcome(outcome) => Ok(Some(*outcome)),
            RunEnd::Detached => Ok(None),
        }
    }

    async fn end(&mut self) -> Result<RunEnd, Error> {
        while self.events.recv().await.is_some() {}
        match (&mut self.driver).await {
            Ok(result) => result,
            Err(failed) => Err(Error::new(
                ErrorKind::Lost,
                format!("the run's task failed: {failed}"),
            )
            .after_start()),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

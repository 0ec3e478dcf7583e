use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::control::{Control, Controls, Input, RunControl, controls};
use super::event::Event;
use super::outcome::Outcome;
use crate::error::{Error, ErrorKind};

/// A run in progress. Dropping it ends its program at once, and its VM if the VM belongs to the run.
#[derive(Debug)]
pub struct Run {
    events: mpsc::Receiver<Event>,
    driver: JoinHandle<Result<RunEnd, Error>>,
    control: RunControl,
    input: Input,
    has_key: bool,
}

/// How the driver of a run ended.
#[derive(Debug)]
pub(crate) enum RunEnd {
    Outcome(Box<Outcome>),
    /// The program continues on its own.
    Detached,
}

/// Events on their way to a caller. With chunks of 64 KiB, a caller that does not read holds 1 MiB.
const EVENTS: usize = 16;

impl Run {
    /// Starts the task that drives the run.
    pub(crate) fn drive<F>(driver: impl FnOnce(mpsc::Sender<Event>, Controls) -> F) -> Self
    where
        F: Future<Output = Result<RunEnd, Error>> + Send + 'static,
    {
        let (events, inbox) = mpsc::channel(EVENTS);
        let (control, input, controls) = controls();
        let driver = tokio::spawn(driver(events, controls));

        Self {
            events: inbox,
            driver,
            control,
            input,
            has_key: false,
        }
    }

    /// Creates a run without a VM: it reports these events, then fails.
    #[cfg(feature = "testing")]
    pub fn from_events(all: Vec<Event>) -> Self {
        Self::drive(|events, _controls| async move {
            for event in all {
                let _ = events.send(event).await;
            }
            Err(Error::new(ErrorKind::Lost, "the run has no VM").after_start())
        })
    }

    /// Records whether the run can be found again by its idempotency key.
    pub(crate) fn with_key(mut self, has_key: bool) -> Self {
        self.has_key = has_key;
        self
    }

    /// Returns the next event, or `None` after the last one. A slow caller slows down the program: no event is
    /// dropped, and little is buffered.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Returns a handle that cancels the run, sends it signals or resizes its terminal from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> RunControl {
        self.control.clone()
    }

    /// Returns the standard input of the program, which is open if the request asked for one.
    #[must_use]
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// Waits for the end of the run and returns its outcome. Events that were not taken are dropped.
    ///
    /// # Errors
    /// Returns an [`Error`] if the run has no outcome; [`Error::retry`] says whether the code may have run.
    pub async fn outcome(mut self) -> Result<Outcome, Error> {
        match self.end().await? {
            RunEnd::Outcome(outcome) => Ok(*outcome),
            RunEnd::Detached => {
                let message = "the run continues, and another caller attached to it";
                Err(Error::new(ErrorKind::Lost, message).after_start())
            }
        }
    }

    /// Detaches from the program: it continues, and can be followed again by
    /// [`Sandbox::attach`](crate::Sandbox::attach). Returns the outcome if the program had ended before.
    ///
    /// # Errors
    /// As [`outcome`](Self::outcome), and [`ErrorKind::Invalid`] for a run without idempotency key, which could not
    /// be found again: it is cancelled, as by dropping it.
    pub async fn detach(mut self) -> Result<Option<Outcome>, Error> {
        if !self.has_key {
            let message =
                "a run without idempotency key cannot be found again; set one in its request";
            return Err(Error::new(ErrorKind::Invalid, message));
        }

        self.control.send(Control::Detach);
        match self.end().await? {
            RunEnd::Outcome(outcome) => Ok(Some(*outcome)),
            RunEnd::Detached => Ok(None),
        }
    }

    async fn end(&mut self) -> Result<RunEnd, Error> {
        // The driver waits for room in the event queue: drain it.
        while self.events.recv().await.is_some() {}
        match (&mut self.driver).await {
            Ok(result) => result,
            Err(failure) => {
                let message = format!("the task of the run failed: {failure}");
                Err(Error::new(ErrorKind::Lost, message).after_start())
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_dropped_run_has_ended_once_its_resources_are_released() {
        let resource = Arc::new(());
        let held = resource.clone();
        let mut run = Run::drive(move |events, mut controls| async move {
            let work = async move {
                let _held = held;
                let _ = events.send(Event::ProgramEnded).await;
                std::future::pending::<()>().await;
            };

            tokio::select! {
                () = work => {}
                () = controls.cancelled() => {}
            }

            Err(Error::new(ErrorKind::Lost, "cancelled"))
        });

        assert_eq!(run.next().await, Some(Event::ProgramEnded));
        let control = run.canceller();
        drop(run);
        control.ended().await;
        assert_eq!(Arc::strong_count(&resource), 1);
    }
}

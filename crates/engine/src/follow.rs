use std::sync::Arc;
use std::time::Duration;

use fumehood_protocol::{Complete, ErrorMessage, Stream, StreamSummary};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::channel::{ChannelError, Operation, OperationEvent};
use crate::run::Event;

/// Where an operation's guest is given up although it may have told its end already (this program
/// may have been stopped), it gets this much more to be heard.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// How long a caller may leave output untaken before its run is given up: a person reads a page in a
/// pager meanwhile, a caller that has forgotten its run does not hold a VM for ever.
const STALL: Duration = Duration::from_secs(15 * 60);

/// How an operation ended, as seen from here.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest told its end.
    Complete(Complete),
    /// The guest refused it.
    Refused(ErrorMessage),
    /// The guest did not tell its end in time.
    Overdue,
    /// The caller did not take its output in time.
    Stalled,
}

/// Passes on what an operation tells, until it ends or its time is up.
#[derive(Debug)]
pub(crate) struct Follow {
    operation: Operation,
    events: mpsc::Sender<Event>,
    cancel: Arc<Notify>,
    start: Instant,
    /// When the guest must have told the end.
    deadline: Instant,
    /// How long the guest may take to end a program whose time is up, or that is cancelled.
    patience: Duration,
    last_chance: bool,
    pub(crate) cancelled: bool,
    pub(crate) first_output: Option<Duration>,
}

impl Follow {
    pub(crate) fn new(
        operation: Operation,
        events: mpsc::Sender<Event>,
        cancel: Arc<Notify>,
        timeout: Duration,
        patience: Duration,
    ) -> Self {
        let start = Instant::now();
        Self {
            operation,
            events,
            cancel,
            start,
            deadline: start + timeout + patience,
            patience,
            last_chance: false,
            cancelled: false,
            first_output: None,
        }
    }

    /// Until the end.
    ///
    /// # Errors
    /// [`ChannelError`]: the guest is lost, or is listened to no more.
    pub(crate) async fn until_the_end(&mut self) -> Result<End, ChannelError> {
        loop {
            let event = tokio::select! {
                event = self.operation.next() => event?,
                () = self.cancel.notified() => {
                    self.cancel();
                    continue;
                }
                () = sleep_until(self.deadline) => {
                    if std::mem::replace(&mut self.last_chance, true) {
                        return Ok(End::Overdue);
                    }
                    self.deadline = Instant::now() + LAST_CHANCE;
                    continue;
                }
            };
            match event {
                OperationEvent::Output(stream, bytes) => {
                    self.first_output
                        .get_or_insert_with(|| self.start.elapsed());
                    let event = match stream {
                        Stream::Stdout => Event::Stdout(bytes),
                        _ => Event::Stderr(bytes),
                    };
                    if !self.pass_on(event).await {
                        return Ok(End::Stalled);
                    }
                    self.operation.used();
                }
                OperationEvent::Complete(complete) => return Ok(End::Complete(complete)),
                OperationEvent::Refused(refusal) => return Ok(End::Refused(refusal)),
                OperationEvent::Quiesced | OperationEvent::Refreshed | OperationEvent::Pong => {
                    let what = "an exec was answered as something else".into();
                    return Err(ChannelError::Violation(what));
                }
            }
        }
    }

    /// What arrived of standard output and standard error.
    pub(crate) fn arrived(&self) -> (StreamSummary, StreamSummary) {
        self.operation.arrived()
    }

    /// How long it has gone on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn cancel(&mut self) {
        self.operation.cancel();
        self.cancelled = true;
        self.deadline = self.deadline.min(Instant::now() + self.patience);
    }

    /// Hands an event to the caller, however slow; a cancel comes through meanwhile. The time that
    /// the caller takes is not the guest's. `false`: the caller takes nothing any more.
    async fn pass_on(&mut self, event: Event) -> bool {
        let begun = Instant::now();
        let (events, cancel) = (self.events.clone(), self.cancel.clone());
        let sending = events.send(event);
        tokio::pin!(sending);
        loop {
            tokio::select! {
                // A caller that has closed its ear still wants the outcome.
                _ = &mut sending => break,
                () = cancel.notified() => self.cancel(),
                () = sleep_until(begun + STALL) => return false,
            }
        }
        self.deadline += begun.elapsed();
        true
    }
}

use std::time::Duration;

use fumehood_protocol::{Complete, ErrorMessage, Stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::control::{Control, Controls};
use super::event::Event;
use super::mime_bundle::Values;
use crate::agent::{Arrived, ChannelError, Operation, OperationEvent};

/// Where an operation's guest is given up although it may have told its end already (this program
/// may have been stopped), it gets this much more to be heard.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// How long a caller may leave output untaken before its run is given up: a person reads a page in a
/// pager meanwhile, a caller that has forgotten its run does not hold a VM for ever.
const STALL: Duration = Duration::from_secs(15 * 60);

/// A value of more bytes than this is a large one.
const LARGE_VALUE: usize = 64 * 1024;

/// How an operation ended, as seen from here.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest told its end.
    Complete(Complete),
    /// The guest refused it.
    Refused(ErrorMessage),
    /// It goes on without us.
    Detached,
    /// The guest did not tell its end in time.
    Overdue,
    /// The caller did not take its output in time.
    Stalled,
}

/// How an operation may begin, which is the guest's word: it must not put off its end by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// At once.
    Now,
    /// It may wait for others before it, for so long at most.
    Queued(Duration),
    /// The guest says when, and so soon at the latest.
    Told(Duration),
}

/// Passes on what an operation tells, until it ends or its time is up.
#[derive(Debug)]
pub(crate) struct Follow {
    operation: Operation,
    events: mpsc::Sender<Event>,
    controls: Controls,
    start: Instant,
    /// How long it may run; none = as long as it likes.
    timeout: Option<Duration>,
    beginning: Beginning,
    /// Some word of its beginning is still due, or may still come.
    is_expected: bool,
    /// When the guest must have told the end.
    deadline: Option<Instant>,
    /// How long the guest may take to end a program whose time is up, or that is cancelled.
    patience: Duration,
    last_chance: bool,
    values: Values,
    pub(crate) cancelled: bool,
    pub(crate) first_output: Option<Duration>,
}

impl Follow {
    pub(crate) fn new(
        operation: Operation,
        events: mpsc::Sender<Event>,
        controls: Controls,
        timeout: Option<Duration>,
        beginning: Beginning,
        patience: Duration,
    ) -> Self {
        let start = Instant::now();
        let deadline = match beginning {
            Beginning::Told(soon) => Some(start + soon),
            _ => timeout.map(|timeout| start + timeout + patience),
        };
        let _ = controls.input.send(Some(operation.input().clone()));
        Self {
            operation,
            events,
            controls,
            start,
            timeout,
            beginning,
            is_expected: beginning != Beginning::Now,
            deadline,
            patience,
            last_chance: false,
            values: Values::default(),
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
                control = self.controls.next() => {
                    self.obey(control);
                    continue;
                }
                () = until(self.deadline) => {
                    if std::mem::replace(&mut self.last_chance, true) {
                        return Ok(End::Overdue);
                    }
                    self.deadline = Some(Instant::now() + LAST_CHANCE);
                    continue;
                }
            };
            match event {
                OperationEvent::Output(stream, bytes) => {
                    self.is_expected = false;
                    self.first_output
                        .get_or_insert_with(|| self.start.elapsed());
                    let events = match stream {
                        Stream::Stdout => vec![Event::Stdout(bytes)],
                        Stream::Stderr => vec![Event::Stderr(bytes)],
                        Stream::Result => {
                            let values = self.values.take(&bytes);
                            values.into_iter().map(Event::Result).collect()
                        }
                        Stream::File => return Err(self.unexpected()),
                    };
                    for event in events {
                        if !self.pass_on(event).await {
                            return Ok(End::Stalled);
                        }
                    }
                    self.operation.used();
                }
                OperationEvent::Started(pid) => {
                    self.begins()?;
                    if !self.pass_on(Event::Started { pid }).await {
                        return Ok(End::Stalled);
                    }
                }
                OperationEvent::Queued => self.is_queued()?,
                OperationEvent::Attached(attached) => {
                    if let Beginning::Told(_) = self.beginning {
                        self.begins()?;
                    }
                    let from_seq = attached.seq;
                    if !self.pass_on(Event::Attached { from_seq }).await {
                        return Ok(End::Stalled);
                    }
                }
                OperationEvent::Complete(complete) => return Ok(End::Complete(complete)),
                OperationEvent::Refused(refusal) => return Ok(End::Refused(refusal)),
                OperationEvent::Detached => return Ok(End::Detached),
                OperationEvent::Item(..)
                | OperationEvent::Answer(_)
                | OperationEvent::Quiesced
                | OperationEvent::Refreshed
                | OperationEvent::Pong => return Err(self.unexpected()),
            }
        }
    }

    /// What arrived.
    pub(crate) fn arrived(&self) -> &Arrived {
        self.operation.arrived()
    }

    /// Results that were none.
    pub(crate) fn dropped_results(&self) -> u64 {
        self.values.dropped
    }

    /// How long it has gone on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// It has begun: its time runs from now on.
    fn begins(&mut self) -> Result<(), ChannelError> {
        if !std::mem::take(&mut self.is_expected) {
            return Err(self.unexpected());
        }
        if !self.cancelled {
            let timeout = self.timeout;
            self.deadline = timeout.map(|timeout| Instant::now() + timeout + self.patience);
        }
        Ok(())
    }

    /// It waits for others, whose time is not its own.
    fn is_queued(&mut self) -> Result<(), ChannelError> {
        let Beginning::Queued(longest) = self.beginning else {
            return Err(self.unexpected());
        };
        if !self.is_expected {
            return Err(self.unexpected());
        }
        // Said once.
        self.beginning = Beginning::Told(longest);
        if !self.cancelled {
            self.deadline = Some(Instant::now() + longest);
        }
        Ok(())
    }

    fn unexpected(&self) -> ChannelError {
        let what = "a program was answered as something else";
        self.operation.violated(what.into())
    }

    fn obey(&mut self, control: Control) {
        match control {
            Control::Cancel => self.cancel(),
            Control::Signal(signal) => self.operation.signal(signal),
            Control::Resize(rows, cols) => self.operation.resize(rows, cols),
            Control::Detach => {
                self.operation.detach();
                let soon = Instant::now() + self.patience;
                self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
            }
        }
    }

    fn cancel(&mut self) {
        self.operation.cancel();
        self.cancelled = true;
        let soon = Instant::now() + self.patience;
        self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
    }

    /// Hands an event to the caller, however slow; what he asks comes through meanwhile. The time that
    /// the caller takes is not the guest's. `false`: the caller takes nothing any more.
    async fn pass_on(&mut self, event: Event) -> bool {
        let begun = Instant::now();
        let events = self.events.clone();
        // A large value waits until all before it have been taken: few of them are held at once.
        let is_large = matches!(&event, Event::Result(value) if value.bytes() > LARGE_VALUE);
        let room = if is_large { events.max_capacity() } else { 1 };
        let sending = async {
            if let Ok(mut permits) = events.reserve_many(room).await
                && let Some(permit) = permits.next()
            {
                permit.send(event);
            }
        };
        tokio::pin!(sending);
        loop {
            tokio::select! {
                // A caller that has closed its ear still wants the outcome.
                () = &mut sending => break,
                control = self.controls.next() => self.obey(control),
                () = sleep_until(begun + STALL) => return false,
            }
        }
        self.deadline = self.deadline.map(|deadline| deadline + begun.elapsed());
        true
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

use std::time::Duration;

use fumehood_protocol::{Complete, ErrorMessage, Stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::control::{Control, Controls};
use super::event::Event;
use super::mime_bundle::ResultParser;
use crate::agent::{ChannelError, Operation, OperationEvent, ReceivedStreams};

/// Additional time before an operation is given up at its deadline. The guest may have reported the end already: this
/// program may have been stopped meanwhile.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// How long a caller may leave output unread before its run is cancelled. A person reads a page in a pager meanwhile;
/// a caller that has forgotten its run does not hold a VM forever.
pub(crate) const UNREAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// A value with more bytes than this waits until the caller has taken all events before it.
const LARGE_VALUE: usize = 64 * 1024;

/// How an operation ended, as observed by the host.
#[derive(Debug)]
pub(crate) enum OperationEnd {
    /// The guest reported its end.
    Complete(Complete),
    /// The guest rejected it.
    Refused(ErrorMessage),
    /// It continues without this caller.
    Detached,
    /// The guest did not report its end in time.
    Overdue,
    /// The caller did not read its output in time.
    Stalled,
}

/// When an operation may start. The guest reports the start, and must not be able to postpone the end by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpectedStart {
    /// At once, without a report.
    Immediate,
    /// It may wait for other operations, for at most this long.
    Queued(Duration),
    /// The guest reports the start, within this time.
    Reported(Duration),
}

/// Forwards the events of an operation to the caller until it ends or its time is up.
#[derive(Debug)]
pub(crate) struct EventPump<'a> {
    operation: Operation,
    events: mpsc::Sender<Event>,
    controls: &'a mut Controls,
    start: Instant,
    /// How long the program may run; none = unlimited.
    timeout: Option<Duration>,
    expected_start: ExpectedStart,
    /// A report of the start is still due, or may still come.
    awaits_start: bool,
    /// When the guest must have reported the end.
    deadline: Option<Instant>,
    /// How long the guest may take to end a program that timed out or was cancelled.
    grace: Duration,
    had_last_chance: bool,
    results: ResultParser,
    pub(crate) cancelled: bool,
    pub(crate) first_output: Option<Duration>,
}

impl<'a> EventPump<'a> {
    pub(crate) fn new(
        operation: Operation,
        events: mpsc::Sender<Event>,
        controls: &'a mut Controls,
        timeout: Option<Duration>,
        expected_start: ExpectedStart,
        grace: Duration,
    ) -> Self {
        let start = Instant::now();
        let deadline = match expected_start {
            ExpectedStart::Reported(within) => Some(start + within),
            _ => timeout.map(|timeout| start + timeout + grace),
        };

        // From now on the caller can write to the program's input.
        let _ = controls.input.send(Some(operation.input().clone()));

        Self {
            operation,
            events,
            controls,
            start,
            timeout,
            expected_start,
            awaits_start: expected_start != ExpectedStart::Immediate,
            deadline,
            grace,
            had_last_chance: false,
            results: ResultParser::default(),
            cancelled: false,
            first_output: None,
        }
    }

    /// Forwards events until the operation ends.
    ///
    /// # Errors
    /// Returns [`ChannelError`] if the guest is lost or violated the protocol.
    pub(crate) async fn run(&mut self) -> Result<OperationEnd, ChannelError> {
        loop {
            let event = tokio::select! {
                event = self.operation.next() => event?,
                control = self.controls.next() => {
                    self.apply(control);
                    continue;
                }

                () = until(self.deadline) => {
                    if std::mem::replace(&mut self.had_last_chance, true) {
                        return Ok(OperationEnd::Overdue);
                    }
                    self.deadline = Some(Instant::now() + LAST_CHANCE);
                    continue;
                }
            };

            let forwarded = match event {
                OperationEvent::Output(stream, bytes) => {
                    self.awaits_start = false;
                    self.first_output
                        .get_or_insert_with(|| self.start.elapsed());

                    let events = match stream {
                        Stream::Stdout => vec![Event::Stdout(bytes)],
                        Stream::Stderr => vec![Event::Stderr(bytes)],
                        Stream::Result => {
                            let values = self.results.feed(&bytes);
                            values.into_iter().map(Event::Result).collect()
                        }
                        Stream::File => return Err(self.unexpected()),
                    };

                    let mut forwarded = true;
                    for event in events {
                        forwarded = forwarded && self.forward(event).await;
                    }

                    // The caller has it: the guest may send more.
                    if forwarded {
                        self.operation.return_credit();
                    }

                    forwarded
                }
                OperationEvent::Started(pid) => {
                    self.on_started()?;
                    self.forward(Event::Started { pid }).await
                }
                OperationEvent::Queued => {
                    self.on_queued()?;
                    true
                }
                OperationEvent::Attached(attached) => {
                    if let ExpectedStart::Reported(_) = self.expected_start {
                        self.on_started()?;
                    }
                    let from_seq = attached.seq;
                    self.forward(Event::Attached { from_seq }).await
                }
                OperationEvent::Complete(complete) => return Ok(OperationEnd::Complete(complete)),
                OperationEvent::Refused(refusal) => return Ok(OperationEnd::Refused(refusal)),
                OperationEvent::Detached => return Ok(OperationEnd::Detached),
                OperationEvent::Item(..)
                | OperationEvent::Answer(_)
                | OperationEvent::Quiesced(_)
                | OperationEvent::Refreshed
                | OperationEvent::Pong => return Err(self.unexpected()),
            };

            if !forwarded {
                return Ok(OperationEnd::Stalled);
            }
        }
    }

    /// Returns summaries of the received streams.
    pub(crate) fn received(&self) -> &ReceivedStreams {
        self.operation.received()
    }

    /// Returns the number of results that were not MIME bundles.
    pub(crate) fn dropped_results(&self) -> u64 {
        self.results.dropped
    }

    /// Returns the time since the operation was sent.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The operation has started: its timeout runs from now on.
    fn on_started(&mut self) -> Result<(), ChannelError> {
        if !std::mem::take(&mut self.awaits_start) {
            return Err(self.unexpected());
        }

        if !self.cancelled {
            let timeout = self.timeout;
            self.deadline = timeout.map(|timeout| Instant::now() + timeout + self.grace);
        }

        Ok(())
    }

    /// The operation waits for others, whose time does not count against its timeout.
    fn on_queued(&mut self) -> Result<(), ChannelError> {
        let ExpectedStart::Queued(max_wait) = self.expected_start else {
            return Err(self.unexpected());
        };

        if !self.awaits_start {
            return Err(self.unexpected());
        }

        // The guest may report this once.
        self.expected_start = ExpectedStart::Reported(max_wait);
        if !self.cancelled {
            self.deadline = Some(Instant::now() + max_wait);
        }

        Ok(())
    }

    fn unexpected(&self) -> ChannelError {
        let what = "the answer to a program has the wrong type";
        self.operation.protocol_violation(what.into())
    }

    fn apply(&mut self, control: Control) {
        match control {
            Control::Cancel => {
                self.operation.cancel();
                self.cancelled = true;
                self.limit_deadline();
            }
            Control::Signal(signal) => self.operation.signal(signal),
            Control::Resize(rows, cols) => self.operation.resize(rows, cols),
            Control::Detach => {
                self.operation.detach();
                self.limit_deadline();
            }
        }
    }

    /// From now on the guest has only its grace period left.
    fn limit_deadline(&mut self) {
        let latest = Instant::now() + self.grace;
        self.deadline = Some(
            self.deadline
                .map_or(latest, |deadline| deadline.min(latest)),
        );
    }

    /// Hands an event to the caller, however slow, and applies the caller's controls meanwhile. The time that the
    /// caller takes does not count against the guest. Returns `false` if the caller stopped reading.
    async fn forward(&mut self, event: Event) -> bool {
        let start = Instant::now();
        let events = self.events.clone();

        // A large value waits until all events before it have been taken: few of them are held at once.
        let is_large = matches!(&event, Event::Result(value) if value.bytes() > LARGE_VALUE);
        let permits = if is_large { events.max_capacity() } else { 1 };
        let sending = async {
            if let Ok(mut permits) = events.reserve_many(permits).await
                && let Some(permit) = permits.next()
            {
                permit.send(event);
            }
        };

        tokio::pin!(sending);
        loop {
            tokio::select! {
                // A caller that dropped the event receiver still wants the outcome.
                () = &mut sending => break,
                control = self.controls.next() => self.apply(control),
                () = sleep_until(start + UNREAD_TIMEOUT) => return false,
            }
        }

        self.deadline = self.deadline.map(|deadline| deadline + start.elapsed());

        true
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

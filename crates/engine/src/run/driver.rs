use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_protocol::{EndedBy, Evidence, Exec, Limits, Request, StreamSummary};
use tokio::sync::mpsc;

use super::conclusion::{CANCELLED, Conclusion, OVERDUE, conclude};
use super::control::Controls;
use super::event::Event;
use super::event_pump::{EventPump, ExpectedStart, OperationEnd};
use super::outcome::{Outcome, Timing, VmOrigin};
use super::skipped::SkippedFiles;
use super::transfer::Download;
use crate::agent::{Channel, KEPT_WINDOW_BYTES, Operation, WINDOW_BYTES};
use crate::error::Error;
use crate::host::{Accelerator, Isolation};
use crate::network::NetworkOutcome;
use crate::packages::InstalledPackage;
use crate::vm::{ActivityGuard, SandboxLifetime, Vm};

/// Collects the outcome of a run while it proceeds. Only this writes an [`Outcome`] and its [`Timing`].
///
/// A new one is the outcome of a run that was cancelled before its code was started; each step adds to it.
#[derive(Debug)]
pub(crate) struct OutcomeBuilder {
    start: Instant,
    outcome: Outcome,
    is_overdue: bool,
}

impl OutcomeBuilder {
    /// Starts the clock of a run.
    pub(crate) fn new(accelerator: Accelerator) -> Self {
        let detail = "cancelled before the code was started".to_string();
        Self {
            start: Instant::now(),
            outcome: Outcome {
                exit_code: Some(CANCELLED),
                ended_by: EndedBy::Cancelled,
                evidence: Evidence {
                    detail: Some(detail),
                    ..Evidence::default()
                },
                stdout: StreamSummary::default(),
                stderr: StreamSummary::default(),
                source: VmOrigin::Boot,
                accelerator,
                isolation: None,
                timing: Timing::default(),
                network: None,
                packages: Vec::new(),
                downloads: Vec::new(),
                skipped_uploads: SkippedFiles::default(),
            },
            is_overdue: false,
        }
    }

    /// The run has a VM: where it came from, and the isolation layers around it.
    pub(crate) fn vm(mut self, source: VmOrigin, isolation: Isolation) -> Self {
        self.outcome.source = source;
        self.outcome.isolation = Some(isolation);
        self
    }

    /// The VM was acquired for this run: the time in the queue, and the time until the agent was ready.
    pub(crate) fn acquired(mut self, queue: Duration, start: Duration) -> Self {
        self.outcome.timing.queue = queue;
        self.outcome.timing.start = start;
        self
    }

    /// The use of the network by the run's own VM.
    pub(crate) fn network(mut self, network: Option<NetworkOutcome>) -> Self {
        self.outcome.network = network;
        self
    }

    /// The packages of the request, with their versions.
    pub(crate) fn packages(mut self, packages: Vec<InstalledPackage>) -> Self {
        self.outcome.packages = packages;
        self
    }

    /// The results of the downloads.
    pub(crate) fn downloads(mut self, downloads: Vec<Download>) -> Self {
        self.outcome.downloads = downloads;
        self
    }

    /// The files in uploaded directories that were not copied.
    pub(crate) fn skipped_uploads(mut self, skipped: SkippedFiles) -> Self {
        self.outcome.skipped_uploads = skipped;
        self
    }

    /// The time that ending the VM took.
    pub(crate) fn teardown(mut self, teardown: Duration) -> Self {
        self.outcome.timing.teardown = teardown;
        self
    }

    /// Why the guest can do nothing more after the program's end; none if it answers.
    pub(crate) fn guest_failure(&self) -> Option<&'static str> {
        match self.outcome.ended_by {
            EndedBy::AgentLost => Some("the VM was lost"),
            _ => self.is_overdue.then_some(OVERDUE),
        }
    }

    /// Adds the result of the operation.
    fn conclude(mut self, conclusion: Conclusion, pump: &EventPump<'_>, execute: Duration) -> Self {
        self.is_overdue = conclusion.is_overdue;
        let outcome = &mut self.outcome;
        outcome.exit_code = conclusion.exit_code;
        outcome.ended_by = conclusion.ended_by;
        outcome.evidence = conclusion.evidence;

        let received = pump.received();
        outcome.stdout = received.stdout;
        outcome.stderr = received.stderr;

        outcome.timing.spawn = conclusion.spawn;
        outcome.timing.first_output = pump.first_output;
        outcome.timing.execute = execute;
        outcome.timing.teardown = conclusion.teardown;

        // The program may have written anything to the descriptor for values.
        let dropped = pump.dropped_results();
        if dropped > 0 {
            let note = format!("{dropped} results that were not MIME bundles were dropped");
            let detail = outcome.evidence.detail.take();
            outcome.evidence.detail = Some(match detail {
                Some(detail) => format!("{detail}; {note}"),
                None => note,
            });
        }

        self
    }

    /// Stops the clock.
    pub(crate) fn finish(mut self) -> Outcome {
        self.outcome.timing.total = self.start.elapsed();
        self.outcome
    }
}

/// Drives an operation that was sent to the guest until it ends.
#[derive(Debug)]
pub(crate) struct RunDriver {
    operation: Operation,
    timeout: Option<Duration>,
    expected_start: ExpectedStart,
    /// How long the guest may take to end a program.
    grace: Duration,
    outcome: OutcomeBuilder,
}

/// The owner of the VM that an operation runs in.
#[derive(Debug)]
pub(crate) enum VmOwner {
    /// The run: its VM ends with it.
    Run(Box<Vm>),
    /// A sandbox, which is not idle meanwhile.
    Sandbox(Arc<SandboxLifetime>, ActivityGuard),
}

impl RunDriver {
    /// Sends an exec.
    pub(crate) fn exec(
        channel: &Channel,
        exec: Exec,
        timeout: Duration,
        mut outcome: OutcomeBuilder,
        limits: &Limits,
    ) -> Self {
        let start = Instant::now();
        let expected_start = match exec.context {
            Some(_) => ExpectedStart::Queued(max_queue_time(limits)),
            None => ExpectedStart::Immediate,
        };

        let window = window(exec.idempotency_key.is_some());
        let operation = channel.start_operation_with_window(window, None, |op_id, credit| {
            Request::Exec(Exec {
                op_id: Some(op_id),
                credit: Some(credit),
                ..exec
            })
        });
        outcome.outcome.timing.connect = start.elapsed();

        Self::new(operation, Some(timeout), expected_start, outcome, limits)
    }

    /// Takes an operation that has just been sent.
    pub(crate) fn new(
        operation: Operation,
        timeout: Option<Duration>,
        expected_start: ExpectedStart,
        outcome: OutcomeBuilder,
        limits: &Limits,
    ) -> Self {
        Self {
            operation,
            timeout,
            expected_start,
            grace: grace(limits),
            outcome,
        }
    }

    /// Follows the operation to its end, then ends the VM if it belongs to the run. Returns `None` if the operation
    /// was detached.
    ///
    /// # Errors
    /// Fails if the run has no outcome: the guest rejected the operation, or violated the protocol.
    pub(crate) async fn drive(
        self,
        events: mpsc::Sender<Event>,
        controls: &mut Controls,
        owner: VmOwner,
    ) -> Result<Option<OutcomeBuilder>, Error> {
        // The guard keeps the sandbox from being idle until the end.
        let (vm, lifetime, _guard) = match owner {
            VmOwner::Run(vm) => (Some(*vm), None, None),
            VmOwner::Sandbox(lifetime, guard) => (None, Some(lifetime), Some(guard)),
        };

        // Forward events until the operation ends.
        let mut pump = EventPump::new(
            self.operation,
            events,
            controls,
            self.timeout,
            self.expected_start,
            self.grace,
        );

        let end = pump.run().await;
        if let (Ok(OperationEnd::Detached), None) = (&end, &vm) {
            return Ok(None);
        }

        // Ending the VM does not count as execution.
        let execute = pump.elapsed();
        let conclusion = conclude(end, pump.cancelled, vm, lifetime.as_deref()).await?;

        Ok(Some(self.outcome.conclude(conclusion, &pump, execute)))
    }
}

/// Returns the bytes of output that may be in flight: no more than the agent stores, for an operation with a key.
pub(crate) fn window(is_stored: bool) -> u64 {
    if is_stored {
        KEPT_WINDOW_BYTES
    } else {
        WINDOW_BYTES
    }
}

/// Returns how long an exec may wait for the ones before it in its context: each may take its full timeout.
fn max_queue_time(limits: &Limits) -> Duration {
    let operations = u32::try_from(limits.operations).unwrap_or(u32::MAX);
    let each = Duration::from_secs(limits.timeout_s) + grace(limits);
    each.saturating_mul(operations)
}

/// Returns how long a guest may take to end a program: SIGINT, SIGTERM, SIGKILL, and a margin for a busy host.
fn grace(limits: &Limits) -> Duration {
    const MARGIN: Duration = Duration::from_secs(10);
    3 * Duration::from_millis(limits.grace_ms) + MARGIN
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_protocol::{Exec, Limits, Request};
use tokio::sync::mpsc;

use super::conclusion::ending;
use super::control::Controls;
use super::event::Event;
use super::event_pump::{Beginning, End, Follow};
use super::handle::RunEnd;
use super::outcome::{Outcome, Timing, VmOrigin};
use crate::agent::{Channel, KEPT_WINDOW_BYTES, Operation, WINDOW_BYTES};
use crate::error::Error;
use crate::host::Accelerator;
use crate::vm::{Busy, Life, Vm};

/// An operation that has been sent to the guest.
#[derive(Debug)]
pub(crate) struct Begun {
    operation: Operation,
    timeout: Option<Duration>,
    beginning: Beginning,
    patience: Duration,
    /// How long sending took.
    connect: Duration,
    source: VmOrigin,
    accelerator: Accelerator,
}

/// Whose VM an operation runs in.
#[derive(Debug)]
pub(crate) enum Owner {
    /// Its own, which ends with it.
    Operation(Box<Vm>),
    /// A sandbox's, which is not idle meanwhile.
    Sandbox(Arc<Life>, Busy),
}

impl Begun {
    /// Sends an exec.
    pub(crate) fn exec(
        channel: &Channel,
        exec: Exec,
        timeout: Duration,
        source: VmOrigin,
        accelerator: Accelerator,
        limits: &Limits,
    ) -> Self {
        let start = Instant::now();
        let beginning = match exec.context {
            Some(_) => Beginning::Queued(longest_queue(limits)),
            None => Beginning::Now,
        };
        let window = window(exec.idempotency_key.is_some());
        let operation = channel.operate_within(window, None, |op_id, credit| {
            Request::Exec(Exec {
                op_id: Some(op_id),
                credit: Some(credit),
                ..exec
            })
        });
        Self {
            connect: start.elapsed(),
            ..Self::new(
                operation,
                Some(timeout),
                beginning,
                source,
                accelerator,
                limits,
            )
        }
    }

    /// One that was sent just now.
    pub(crate) fn new(
        operation: Operation,
        timeout: Option<Duration>,
        beginning: Beginning,
        source: VmOrigin,
        accelerator: Accelerator,
        limits: &Limits,
    ) -> Self {
        Self {
            operation,
            timeout,
            beginning,
            patience: patience(limits),
            connect: Duration::ZERO,
            source,
            accelerator,
        }
    }

    /// Follows it to its end; then ends the VM, if that is its own.
    pub(crate) async fn drive(
        self,
        events: mpsc::Sender<Event>,
        controls: Controls,
        owner: Owner,
    ) -> Result<RunEnd, Error> {
        let start = Instant::now();
        let (vm, life, _busy) = match owner {
            Owner::Operation(vm) => (Some(*vm), None, None),
            Owner::Sandbox(life, busy) => (None, Some(life), Some(busy)),
        };
        let isolation = match (&vm, &life) {
            (Some(vm), _) => Some(vm.isolation()),
            (None, life) => life.as_ref().map(|life| life.isolation.clone()),
        };
        let ready = vm.as_ref().map_or(Duration::ZERO, |vm| vm.start);
        let mut timing = Timing {
            start: ready,
            connect: self.connect,
            ..Timing::default()
        };
        let (source, accelerator) = (self.source, self.accelerator);
        let mut follow = Follow::new(
            self.operation,
            events,
            controls,
            self.timeout,
            self.beginning,
            self.patience,
        );
        let end = follow.until_the_end().await;
        if let (Ok(End::Detached), None) = (&end, &vm) {
            return Ok(RunEnd::Detached);
        }
        timing.execute = follow.elapsed();
        timing.first_output = follow.first_output;
        let arrived = *follow.arrived();
        let cancelled = follow.cancelled;
        let mut ending = ending(end, cancelled, vm, life.as_deref(), &mut timing).await?;
        if follow.dropped_results() > 0 {
            let dropped = follow.dropped_results();
            let note = format!("{dropped} results that were no MIME bundles were dropped");
            let detail = ending.evidence.detail.take();
            ending.evidence.detail = Some(match detail {
                Some(detail) => format!("{detail}; {note}"),
                None => note,
            });
        }
        timing.total = start.elapsed();
        Ok(RunEnd::Outcome(Box::new(Outcome {
            exit_code: ending.exit_code,
            ended_by: ending.ended_by,
            evidence: ending.evidence,
            stdout: arrived.stdout,
            stderr: arrived.stderr,
            source,
            accelerator,
            isolation,
            timing,
            network: None,
        })))
    }
}

/// Bytes of output that may be on their way: no more than the agent keeps, where it does.
pub(crate) fn window(is_kept: bool) -> u64 {
    if is_kept {
        KEPT_WINDOW_BYTES
    } else {
        WINDOW_BYTES
    }
}

/// How long those before an exec in its context may take: each its own time.
fn longest_queue(limits: &Limits) -> Duration {
    let operations = u32::try_from(limits.operations).unwrap_or(u32::MAX);
    let each = Duration::from_secs(limits.timeout_s) + patience(limits);
    each.saturating_mul(operations)
}

/// How long a guest may take to end a program: SIGINT, SIGTERM, SIGKILL, and a margin for a busy host.
fn patience(limits: &Limits) -> Duration {
    const MARGIN: Duration = Duration::from_secs(10);
    3 * Duration::from_millis(limits.grace_ms) + MARGIN
}

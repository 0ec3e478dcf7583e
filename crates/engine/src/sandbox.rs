use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_protocol::{Exec, Limits, Request};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

use crate::accelerator::Accelerator;
use crate::admission::Place;
use crate::channel::{Channel, Operation};
use crate::ending::ending;
use crate::error::Error;
use crate::follow::Follow;
use crate::run::{Event, Outcome, Run, RunRequest, Source, Timing};
use crate::vm::Vm;

/// One running microVM. Dropping it ends it, with all that runs in it.
///
/// ```no_run
/// # async fn example(engine: fumehood_engine::Engine) -> Result<(), fumehood_engine::Error> {
/// use fumehood_engine::{Language, RunRequest};
///
/// let sandbox = engine.sandbox(512).await?;
/// let first = sandbox.run(&RunRequest::new(Language::Raw, "echo kept > file"))?;
/// first.outcome().await?;
/// let second = sandbox.run(&RunRequest::new(Language::Raw, "cat file"))?;
/// assert_eq!(second.outcome().await?.stdout.bytes, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sandbox {
    vm: Vm,
    channel: Channel,
    _place: Place,
    limits: Limits,
    memory_mib: u32,
    accelerator: Accelerator,
}

impl Sandbox {
    pub(crate) fn new(
        vm: Vm,
        socket: UnixStream,
        place: Place,
        limits: Limits,
        memory_mib: u32,
        accelerator: Accelerator,
    ) -> Self {
        let channel = Channel::new(socket);
        Self {
            vm,
            channel,
            _place: place,
            limits,
            memory_mib,
            accelerator,
        }
    }

    /// How long the VM took to boot.
    #[must_use]
    pub fn boot(&self) -> Duration {
        self.vm.boot
    }

    /// Runs a program, each in an interpreter of its own; several may run at once. Files stay until
    /// the sandbox ends.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): what is wrong, what the limit is.
    pub fn run(&self, request: &RunRequest) -> Result<Run, Error> {
        request.fits(self.memory_mib)?;
        let (exec, timeout) = request.check(&self.limits)?;
        let begun = Begun::new(&self.channel, exec, timeout, &self.limits);
        let accelerator = self.accelerator;
        Ok(Run::drive(move |events, cancel| {
            begun.drive(events, cancel, None, accelerator)
        }))
    }

    /// Runs one program and ends the VM.
    pub(crate) async fn run_and_end(
        self,
        exec: Exec,
        timeout: Duration,
        events: mpsc::Sender<Event>,
        cancel: Arc<Notify>,
    ) -> Result<Outcome, Error> {
        let begun = Begun::new(&self.channel, exec, timeout, &self.limits);
        // Held until the VM is gone.
        let (_channel, _place) = (self.channel, self._place);
        begun
            .drive(events, cancel, Some(self.vm), self.accelerator)
            .await
    }

    /// Ends it; returns how long that took.
    pub async fn end(self) -> Duration {
        self.vm.end().await
    }
}

/// A program that has been sent to the guest.
struct Begun {
    operation: Operation,
    timeout: Duration,
    patience: Duration,
    /// How long sending took.
    connect: Duration,
}

impl Begun {
    fn new(channel: &Channel, exec: Exec, timeout: Duration, limits: &Limits) -> Self {
        let start = Instant::now();
        let operation = channel.operate(|op_id, credit| {
            Request::Exec(Exec {
                op_id: Some(op_id),
                credit: Some(credit),
                ..exec
            })
        });
        Self {
            operation,
            timeout,
            patience: patience(limits),
            connect: start.elapsed(),
        }
    }

    /// Follows it to its end; then ends the VM, if it is given one.
    async fn drive(
        self,
        events: mpsc::Sender<Event>,
        cancel: Arc<Notify>,
        vm: Option<Vm>,
        accelerator: Accelerator,
    ) -> Result<Outcome, Error> {
        let start = Instant::now();
        let boot = vm.as_ref().map_or(Duration::ZERO, |vm| vm.boot);
        let mut timing = Timing {
            boot,
            connect: self.connect,
            ..Timing::default()
        };
        let mut follow = Follow::new(self.operation, events, cancel, self.timeout, self.patience);
        let end = follow.until_the_end().await;
        timing.execute = follow.elapsed();
        timing.first_output = follow.first_output;
        let (stdout, stderr) = follow.arrived();
        let cancelled = follow.cancelled;
        let ending = ending(end, cancelled, vm, &mut timing).await?;
        timing.total = start.elapsed();
        Ok(Outcome {
            exit_code: ending.exit_code,
            ended_by: ending.ended_by,
            evidence: ending.evidence,
            stdout,
            stderr,
            source: Source::Boot,
            accelerator,
            timing,
        })
    }
}

/// How long a guest may take to end a program: SIGINT, SIGTERM, SIGKILL, and a margin for a busy host.
fn patience(limits: &Limits) -> Duration {
    const MARGIN: Duration = Duration::from_secs(10);
    3 * Duration::from_millis(limits.grace_ms) + MARGIN
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_protocol::{Exec, Limits, PROTOCOL_VERSION, Refresh, Request};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::accelerator::Accelerator;
use crate::admission::Place;
use crate::channel::{Channel, Operation};
use crate::checkpoint::Checkpoint;
use crate::ending::ending;
use crate::error::{Error, ErrorKind};
use crate::follow::Follow;
use crate::host::{Fresh, Host};
use crate::run::{Event, Outcome, Run, RunRequest, Source, Timing};
use crate::snapshot::Snapshot;
use crate::vm::Vm;
use crate::warm::{quiesce, refresh};

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
    place: Place,
    source: Source,
    base: Option<Snapshot>,
    queue: Duration,
    memory_mib: u32,
    host: Arc<Host>,
}

impl Sandbox {
    pub(crate) fn new(host: Arc<Host>, fresh: Fresh<Channel>, memory_mib: u32) -> Self {
        Self {
            vm: fresh.vm,
            channel: fresh.line,
            place: fresh.place,
            source: fresh.source,
            base: fresh.base,
            queue: fresh.queue,
            memory_mib,
            host,
        }
    }

    /// From asking for the VM to its agent's word that it is ready.
    #[must_use]
    pub fn start(&self) -> Duration {
        self.vm.start
    }

    /// Where the VM came from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// The number of its QEMU process on this host.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.vm.process_id()
    }

    /// What QEMU's human monitor says to a command, such as `info jit`: for measurements.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    pub async fn monitor(&self, command: &str) -> Result<String, Error> {
        self.vm.monitor(command).await
    }

    /// Runs a program, each in an interpreter of its own; several may run at once. Files stay until
    /// the sandbox ends.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): what is wrong, what the limit is.
    pub fn run(&self, request: &RunRequest) -> Result<Run, Error> {
        request.fits(self.memory_mib)?;
        let (exec, timeout) = request.check(&self.host.config.limits)?;
        let begun = self.begin(exec, timeout);
        Ok(Run::drive(move |events, cancel| {
            begun.drive(events, cancel, None)
        }))
    }

    fn begin(&self, exec: Exec, timeout: Duration) -> Begun {
        let start = Instant::now();
        let operation = self.channel.operate(|op_id, credit| {
            Request::Exec(Exec {
                op_id: Some(op_id),
                credit: Some(credit),
                ..exec
            })
        });
        Begun {
            operation,
            timeout,
            patience: patience(&self.host.config.limits),
            connect: start.elapsed(),
            source: self.source,
            accelerator: self.host.accelerator,
        }
    }

    /// Saves its state: files, memory, processes, contexts. The sandbox goes on. Others can begin from
    /// that state with [`Engine::open`](crate::Engine::open), each with randomness, clock and identity
    /// of its own. Await it to its end: a sandbox whose checkpoint was dropped half-way stands still, and
    /// can only be ended.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) while programs run in it;
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost): the sandbox must be given up.
    pub async fn checkpoint(&self) -> Result<Checkpoint, Error> {
        let place = self
            .host
            .admission
            .place(self.memory_mib, || self.host.idle.clear());
        let place = place.await?;
        quiesce(&self.channel).await?;
        let machine = self.host.kit.machine(self.memory_mib);
        let taken = Snapshot::take(&self.vm, machine, self.base.as_ref()).await;
        // It stays who it is; those that begin from its state are others.
        let (machine_id, hostname) = self.vm.identity.clone();
        let fresh = Refresh {
            machine_id,
            hostname,
            ..self.host.kit.fresh()?
        };
        refresh(&self.channel, fresh).await?;
        Ok(Checkpoint::new(taken?, place))
    }

    /// A sandbox that begins from a saved state.
    pub(crate) async fn open(host: Arc<Host>, checkpoint: &Checkpoint) -> Result<Self, Error> {
        let snapshot = checkpoint.snapshot();
        let restored = host.restore(snapshot, PROTOCOL_VERSION, Source::Checkpoint);
        let fresh = restored.await?.map(Channel::new);
        Ok(Self::new(host, fresh, snapshot.machine().memory_mib))
    }

    /// `count` sandboxes that begin from this one's state, as [`checkpoint`](Self::checkpoint) saves it.
    /// They share what memory they do not change.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint) and [`Engine::open`](crate::Engine::open).
    pub async fn fork(&self, count: usize) -> Result<Vec<Self>, Error> {
        let checkpoint = self.checkpoint().await?;
        let mut opening = JoinSet::new();
        for _ in 0..count {
            let (checkpoint, host) = (checkpoint.clone(), self.host.clone());
            opening.spawn(async move { Self::open(host, &checkpoint).await });
        }
        let mut children = Vec::with_capacity(count);
        while let Some(opened) = opening.join_next().await {
            let child = opened.map_err(|e| {
                Error::new(ErrorKind::Lost, format!("the task of a fork failed: {e}"))
            })?;
            children.push(child?);
        }
        Ok(children)
    }

    /// Runs one program and ends the VM.
    pub(crate) async fn run_and_end(
        self,
        exec: Exec,
        timeout: Duration,
        events: mpsc::Sender<Event>,
        cancel: Arc<Notify>,
    ) -> Result<Outcome, Error> {
        let begun = self.begin(exec, timeout);
        // Held until the VM is gone.
        let (_channel, _place, queue) = (self.channel, self.place, self.queue);
        let mut outcome = begun.drive(events, cancel, Some(self.vm)).await?;
        outcome.timing.queue = queue;
        Ok(outcome)
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
    source: Source,
    accelerator: Accelerator,
}

impl Begun {
    /// Follows it to its end; then ends the VM, if it is given one.
    async fn drive(
        self,
        events: mpsc::Sender<Event>,
        cancel: Arc<Notify>,
        vm: Option<Vm>,
    ) -> Result<Outcome, Error> {
        let start = Instant::now();
        let ready = vm.as_ref().map_or(Duration::ZERO, |vm| vm.start);
        let mut timing = Timing {
            start: ready,
            connect: self.connect,
            ..Timing::default()
        };
        let (source, accelerator) = (self.source, self.accelerator);
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
            source,
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

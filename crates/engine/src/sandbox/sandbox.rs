use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use fumehood_gateway::Event as NetworkEvent;
use fumehood_protocol::{
    ActionTag, Attach, IdempotencyKey, Limits, ListProcesses, OpId, ProcessInfo, Request, Response,
    Spawn, WireError,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::agent::{Channel, ChannelError, Operation, OperationEvent};
use crate::error::{Error, ErrorKind};
use crate::host::Isolation;
use crate::network::{ActiveNetwork, NetworkOutcome, PortMapping, PreparedNetwork, Uplink};
use crate::packages::InstalledPackage;
use crate::provision::{AcquiredVm, MemoryReservation, Provisioner};
use crate::run::{
    ExpectedStart, OutcomeBuilder, Run, RunDriver, RunEnd, RunRequest, SpawnRequest, VmOrigin,
    VmOwner, rejection, window,
};
use crate::snapshot::{RunningPrograms, Snapshot};
use crate::vm::{Activity, ActivityGuard, Machine, SandboxEnd, SandboxLifetime};

/// A running microVM in which several programs can run. Cheap to clone; dropping the last clone ends the VM and all
/// programs in it.
///
/// ```no_run
/// # async fn example(engine: fumehood_engine::Engine) -> Result<(), fumehood_engine::Error> {
/// use fumehood_engine::{Language, RunRequest};
///
/// let sandbox = engine.sandbox().memory_mib(512).await?;
/// sandbox.files().write("data.txt", "kept\n").await?;
/// let run = sandbox.run(&RunRequest::new(Language::Shell, "cat data.txt"))?;
/// assert_eq!(run.outcome().await?.stdout.bytes, 5);
///
/// let python = sandbox.context("main", Language::Python);
/// python.run("x = 6")?.outcome().await?;
/// python.run("print(x * 7)")?.outcome().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) lifetime: Arc<SandboxLifetime>,
    pub(crate) channel: Arc<Channel>,
    supervisor: JoinHandle<()>,
    _reservation: MemoryReservation,
    source: VmOrigin,
    start: Duration,
    process_id: u32,
    pub(crate) identity: (String, String),
    pub(crate) base: Option<Snapshot>,
    pub(crate) machine: Machine,
    uplink: Option<Uplink>,
    packages: OnceLock<Vec<InstalledPackage>>,
    inherited_programs: OnceLock<RunningPrograms>,
    /// The memory of the state that it was resumed from.
    state_reservation: OnceLock<MemoryReservation>,
    pub(crate) provisioner: Arc<Provisioner>,
    /// Locked from a quiesce to its refresh: of two at once, one would thaw the guest that the other saves.
    pub(crate) saving: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.supervisor.abort();
        self.lifetime.abandon();

        // The files of a resumed state were removed: closing the last descriptor frees their blocks, which may take a second.
        if let (Some(base), Ok(runtime)) = (self.base.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(base));
        }
    }
}

/// Time limit of answers that need no program.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a sandbox may exist, idle and in total; none = unlimited.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SandboxTimeouts {
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
}

impl Sandbox {
    pub(crate) fn new(
        provisioner: Arc<Provisioner>,
        acquired: AcquiredVm<Channel>,
        network: Option<PreparedNetwork>,
        timeouts: SandboxTimeouts,
    ) -> Result<Self, Error> {
        let uplink = acquired
            .network
            .map(|cable| Uplink::connect(cable, network));

        let uplink = uplink.transpose()?;

        let (start, process_id) = (acquired.vm.start, acquired.vm.process_id());
        let identity = acquired.vm.identity.clone();
        let lifetime =
            SandboxLifetime::new(acquired.vm, timeouts.idle_timeout, timeouts.max_lifetime);

        let (lifetime, channel) = (Arc::new(lifetime), Arc::new(acquired.agent));
        // One task ends the VM at its timeouts, and notices when it is lost.
        let supervisor = tokio::spawn(lifetime.clone().supervise(channel.clone()));

        Ok(Self(Arc::new(Inner {
            lifetime,
            channel,
            supervisor,
            _reservation: acquired.reservation,
            source: acquired.source,
            start,
            process_id,
            identity,
            base: acquired.base,
            machine: acquired.machine,
            uplink,
            packages: OnceLock::new(),
            inherited_programs: OnceLock::new(),
            state_reservation: OnceLock::new(),
            provisioner,
            saving: tokio::sync::Mutex::default(),
        })))
    }

    /// Returns the time from the request for the VM until its agent was ready.
    #[must_use]
    pub fn start(&self) -> Duration {
        self.0.start
    }

    /// Returns where the VM came from.
    #[must_use]
    pub fn source(&self) -> VmOrigin {
        self.0.source
    }

    /// Returns the packages that its [builder](crate::SandboxBuilder::packages) named, with their resolved versions: those
    /// of the first sandbox, if it was started from a state of another one.
    #[must_use]
    pub fn packages(&self) -> &[InstalledPackage] {
        self.0.packages.get().map_or(&[], Vec::as_slice)
    }

    /// Records the packages of the builder, once.
    pub(crate) fn record_packages(&self, packages: Vec<InstalledPackage>) {
        let _ = self.0.packages.set(packages);
    }

    /// Returns the programs that ran in the saved state from which the sandbox was started, and so continue in it and in
    /// its siblings. `None` if it was started neither from a checkpoint nor by a fork.
    #[must_use]
    pub fn inherited_programs(&self) -> Option<&RunningPrograms> {
        self.0.inherited_programs.get()
    }

    /// Records the programs of the saved state, once.
    pub(crate) fn record_inherited_programs(&self, programs: RunningPrograms) {
        let _ = self.0.inherited_programs.set(programs);
    }

    /// Holds the memory of the state that it was resumed from, once.
    pub(crate) fn hold_reservation(&self, reservation: MemoryReservation) {
        let _ = self.0.state_reservation.set(reservation);
    }

    /// Returns the isolation layers around the VM.
    #[must_use]
    pub fn isolation(&self) -> &Isolation {
        &self.0.lifetime.isolation
    }

    /// Returns the process id of the VM's QEMU on this host.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.0.process_id
    }

    /// Returns the memory of the VM, in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u32 {
        self.0.machine.shape.memory_mib
    }

    /// Returns the other end of the network card's cable, once: for tests of the card.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn cable(&self) -> Option<tokio::net::UnixStream> {
        self.0.uplink.as_ref()?.take_cable()
    }

    /// Returns a receiver of the network's events from now on; `None` if the sandbox has no network. There is one
    /// receiver at a time. A slow one misses events; the [summary](Self::network) says how many.
    #[must_use]
    pub fn network_events(&self) -> Option<mpsc::Receiver<NetworkEvent>> {
        Some(self.active_network()?.events())
    }

    /// Returns a summary of the sandbox's network use until now; `None` if it has no network.
    #[must_use]
    pub fn network(&self) -> Option<NetworkOutcome> {
        Some(self.active_network()?.outcome())
    }

    /// Exposes a port of the guest on this host's loopback interface until the sandbox ends; returns its URL.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the sandbox has no network or the port is in use.
    pub fn expose(&self, mapping: PortMapping) -> Result<String, Error> {
        let Some(network) = self.active_network() else {
            let message = "a sandbox without a network cannot expose ports; start it with a network, which may allow nothing";
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        network.expose_another(mapping)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn active_network(&self) -> Option<&ActiveNetwork> {
        self.0.uplink.as_ref().and_then(Uplink::active)
    }

    /// Runs a command of QEMU's human monitor, such as `info jit`, and returns its output: for measurements.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Lost`].
    pub async fn monitor(&self, command: &str) -> Result<String, Error> {
        self.0.lifetime.vm().await?.monitor(command).await
    }

    /// Runs a program, in a separate interpreter or in a context. Several can run at the same time; those of one
    /// context run one after the other. Files stay until the sandbox ends.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] with the value and its limit, and [`ErrorKind::Lost`] if the sandbox has ended.
    pub fn run(&self, request: &RunRequest) -> Result<Run, Error> {
        request.fits_sandbox(self.memory_mib())?;
        let (exec, timeout) = request.check(self.limits())?;

        let guard = self.mark_active(request.has_key())?;
        let driver = RunDriver::exec(
            &self.0.channel,
            exec,
            timeout,
            self.outcome_builder(),
            self.limits(),
        );

        Ok(self.drive(driver, guard).with_key(request.has_key()))
    }

    /// Starts a program. Dropping the returned run ends the program; [`Run::detach`] lets it continue.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn spawn(&self, request: &SpawnRequest) -> Result<Run, Error> {
        let (spawn, timeout) = request.check(self.limits())?;
        let has_key = spawn.idempotency_key.is_some();

        let guard = self.mark_active(has_key)?;
        let operation =
            self.0
                .channel
                .start_operation_with_window(window(has_key), None, |op_id, credit| {
                    Request::Spawn(Spawn {
                        op_id: Some(op_id),
                        credit: Some(credit),
                        ..spawn
                    })
                });

        let driver = self.driver(operation, timeout, ExpectedStart::Reported(ANSWER_TIMEOUT));
        Ok(self.drive(driver, guard).with_key(has_key))
    }

    /// Attaches to a run or program that was started with this key, whether it is in progress or has ended, from this
    /// piece of its output on: 0 = all that is stored.
    ///
    /// # Errors
    /// As [`run`](Self::run). An unknown key is an error of [`Run::outcome`].
    pub fn attach(&self, key: impl Into<String>, from_seq: u64) -> Result<Run, Error> {
        let key = IdempotencyKey::new(key);
        key.check(self.limits()).map_err(invalid)?;

        let guard = self.mark_active(true)?;
        let operation =
            self.0
                .channel
                .start_operation_with_window(window(true), None, |op_id, credit| {
                    Request::Attach(Attach {
                        action: ActionTag,
                        op_id: Some(op_id),
                        idempotency_key: key,
                        from_seq,
                        credit: Some(credit),
                    })
                });

        let driver = self.driver(operation, None, ExpectedStart::Reported(ANSWER_TIMEOUT));
        Ok(self.drive(driver, guard).with_key(true))
    }

    fn outcome_builder(&self) -> OutcomeBuilder {
        let outcome = OutcomeBuilder::new(self.0.provisioner.accelerator);
        outcome.vm(self.0.source, self.isolation().clone())
    }

    pub(super) fn driver(
        &self,
        operation: Operation,
        timeout: Option<Duration>,
        expected_start: ExpectedStart,
    ) -> RunDriver {
        RunDriver::new(
            operation,
            timeout,
            expected_start,
            self.outcome_builder(),
            self.limits(),
        )
    }

    pub(super) fn drive(&self, driver: RunDriver, guard: ActivityGuard) -> Run {
        let owner = VmOwner::Sandbox(self.0.lifetime.clone(), guard);
        Run::drive(move |events, mut controls| async move {
            let outcome = driver.drive(events, &mut controls, owner).await?;
            Ok(outcome.map_or(RunEnd::Detached, |outcome| {
                RunEnd::Outcome(Box::new(outcome.finish()))
            }))
        })
    }

    /// Keeps the sandbox from being idle. In a sandbox that has ended, a request with a key may have run before.
    fn mark_active(&self, has_key: bool) -> Result<ActivityGuard, Error> {
        self.0
            .lifetime
            .mark_active()
            .map_err(|error| if has_key { error.after_start() } else { error })
    }

    /// Lists what runs in the sandbox: programs, interpreters, contexts.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Lost`].
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>, Error> {
        let request = |op_id| {
            Request::ListProcesses(ListProcesses {
                action: ActionTag,
                op_id: Some(op_id),
            })
        };

        match self.ask(request).await? {
            Response::Processes(listed) => Ok(listed.processes),
            other => Err(self.unexpected_answer(&other)),
        }
    }

    /// Starts an operation that is not a program. `input` is all of its input, or `None` if that is sent later or
    /// there is none.
    pub(crate) fn start_operation(
        &self,
        input: Option<Bytes>,
        request: impl FnOnce(OpId, u64) -> Request,
    ) -> Result<(Operation, ActivityGuard), Error> {
        let guard = self.0.lifetime.mark_active()?;
        let channel = &self.0.channel;
        let operation = channel.start_operation_with_window(window(false), input, request);
        Ok((operation, guard))
    }

    /// Sends a request that has one answer, and returns the answer.
    pub(crate) async fn ask(
        &self,
        request: impl FnOnce(OpId) -> Request,
    ) -> Result<Response, Error> {
        let (mut operation, _guard) = self.start_operation(None, |op_id, _| request(op_id))?;
        match self.next(&mut operation, ANSWER_TIMEOUT).await? {
            OperationEvent::Answer(response) => Ok(response),
            other => Err(self.unexpected_answer(&other)),
        }
    }

    /// Returns the next event of an operation that is not a program.
    pub(crate) async fn next(
        &self,
        operation: &mut Operation,
        timeout: Duration,
    ) -> Result<OperationEvent, Error> {
        match tokio::time::timeout(timeout, operation.next()).await {
            Ok(Ok(OperationEvent::Refused(refusal))) => Err(rejection(&refusal)),
            Ok(Ok(event)) => Ok(event),
            Ok(Err(error)) => Err(self.connection_error(error).await),
            Err(_) => {
                let message = ChannelError::Silent(timeout).to_string();
                Err(Error::new(ErrorKind::Lost, message).after_start())
            }
        }
    }

    /// Converts the error of a connection that is closed.
    pub(crate) async fn connection_error(&self, error: ChannelError) -> Error {
        match error {
            ChannelError::Violation(what) => {
                let message = format!("the guest violated the protocol: {what}");
                Error::new(ErrorKind::Protocol, message).after_start()
            }
            _ => Error::new(ErrorKind::Lost, self.0.lifetime.end_reason().await).after_start(),
        }
    }

    /// Closes the connection because an answer has the wrong type.
    pub(crate) fn unexpected_answer(&self, answer: &impl std::fmt::Debug) -> Error {
        let shown: String = format!("{answer:?}").chars().take(200).collect();
        self.protocol_violation(format!("unexpected answer: {shown}"))
    }

    /// Closes the connection because the guest violated the protocol.
    pub(crate) fn protocol_violation(&self, what: String) -> Error {
        let message = format!("the guest violated the protocol: {what}");
        self.0.channel.end(ChannelError::Violation(what));
        Error::new(ErrorKind::Protocol, message).after_start()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.provisioner.config.limits
    }

    /// Returns whether the sandbox is in use now, for callers that pause or end idle ones themselves.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let network = self.active_network();
        Activity {
            inbound_connections: network.map_or(0, ActiveNetwork::inbound_connections),
            ..self.0.lifetime.activity()
        }
    }

    /// Returns the time that this host's processors have spent on the VM, its emulation included. `None` if this host does
    /// not say.
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        cpu_time(self.0.process_id)
    }

    /// Sets the time without requests and followed programs after which the sandbox ends; none = never.
    pub fn set_idle_timeout(&self, time: Option<Duration>) {
        self.0.lifetime.set_idle_timeout(time);
    }

    /// Sets the age at which the sandbox ends, even if programs run in it; none = never.
    pub fn set_max_lifetime(&self, age: Option<Duration>) {
        self.0.lifetime.set_max_lifetime(age);
    }

    /// Returns why the sandbox has ended; `None` while it exists.
    #[must_use]
    pub fn ended(&self) -> Option<SandboxEnd> {
        self.0.lifetime.ended()
    }

    /// Waits until the sandbox has ended; returns why.
    pub async fn wait(&self) -> SandboxEnd {
        self.0.lifetime.wait_until_ended().await
    }

    /// Ends the sandbox, also for the owners of other clones; returns how long that took.
    pub async fn end(&self) -> Duration {
        self.0.lifetime.end(SandboxEnd::Requested).await
    }
}

/// Returns the processor time of a process and its threads, from `/proc/PID/stat`.
fn cpu_time(pid: u32) -> Option<Duration> {
    /// The index of the user time among the fields after the name; the system time follows.
    const USER_TIME: usize = 11;

    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_ascii_whitespace().skip(USER_TIME).take(2);
    let ticks: u64 = times.filter_map(|field| field.parse::<u64>().ok()).sum();

    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(
        ticks.saturating_mul(1000) / per_second,
    ))
}

pub(crate) fn invalid(error: WireError) -> Error {
    Error::new(ErrorKind::Invalid, error.message)
}

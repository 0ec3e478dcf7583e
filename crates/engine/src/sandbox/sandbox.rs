use std::sync::Arc;
use std::time::Duration;

use fumehood_gateway::Event as NetworkEvent;
use fumehood_protocol::{
    ActionTag, Attach, IdempotencyKey, ListProcesses, ProcessInfo, Request, Response, Spawn,
    WireError,
};
use tokio::task::JoinHandle;

use crate::agent::{Channel, ChannelError, Operation, OperationEvent};
use crate::error::{Error, ErrorKind};
use crate::host::Isolation;
use crate::network::{NetworkOutcome, PortMapping, Prepared, Served, Uplink};
use crate::provision::{Fresh, Host, Place};
use crate::run::{
    Beginning, Begun, Owner, Run, RunRequest, SpawnRequest, VmOrigin, refused, window,
};
use crate::snapshot::Snapshot;
use crate::vm::{Busy, Life, Machine, SandboxEnd};

/// One running microVM. Cheap to clone; the last clone that is dropped ends it, with all that runs in it.
///
/// ```no_run
/// # async fn example(engine: fumehood_engine::Engine) -> Result<(), fumehood_engine::Error> {
/// use fumehood_engine::{Language, RunRequest};
///
/// let sandbox = engine.sandbox().memory_mib(512).await?;
/// sandbox.files().write("data.txt", "kept\n").await?;
/// let run = sandbox.run(&RunRequest::new(Language::Raw, "cat data.txt"))?;
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
    pub(crate) life: Arc<Life>,
    pub(crate) channel: Arc<Channel>,
    watch: JoinHandle<()>,
    _place: Place,
    source: VmOrigin,
    start: Duration,
    process_id: u32,
    pub(crate) identity: (String, String),
    pub(crate) base: Option<Snapshot>,
    pub(crate) machine: Machine,
    uplink: Option<Uplink>,
    pub(crate) host: Arc<Host>,
    /// Held from a quiesce to its refresh: two at once would thaw what the other saves.
    pub(crate) saving: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watch.abort();
        self.life.abandon();
    }
}

/// How long an answer may take that needs no program.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a sandbox may be there, idle and in all; none = as long as its owner likes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
}

impl Sandbox {
    pub(crate) fn new(
        host: Arc<Host>,
        fresh: Fresh<Channel>,
        prepared: Option<Prepared>,
        times: Times,
    ) -> Result<Self, Error> {
        let uplink = fresh.network.map(|cable| Uplink::begin(cable, prepared));
        let uplink = uplink.transpose()?;
        let (start, process_id) = (fresh.vm.start, fresh.vm.process_id());
        let identity = fresh.vm.identity.clone();
        let life = Life::new(fresh.vm, times.idle_timeout, times.max_lifetime);
        let (life, channel) = (Arc::new(life), Arc::new(fresh.line));
        let watch = tokio::spawn(life.clone().watch_over(channel.clone()));
        Ok(Self(Arc::new(Inner {
            life,
            channel,
            watch,
            _place: fresh.place,
            source: fresh.source,
            start,
            process_id,
            identity,
            base: fresh.base,
            machine: fresh.machine,
            uplink,
            host,
            saving: tokio::sync::Mutex::default(),
        })))
    }

    /// From asking for the VM to its agent's word that it is ready.
    #[must_use]
    pub fn start(&self) -> Duration {
        self.0.start
    }

    /// Where the VM came from.
    #[must_use]
    pub fn source(&self) -> VmOrigin {
        self.0.source
    }

    /// Which walls stand around its VM.
    #[must_use]
    pub fn isolation(&self) -> &Isolation {
        &self.0.life.isolation
    }

    /// The number of its QEMU process on this host.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.0.process_id
    }

    /// Its memory, in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u32 {
        self.0.machine.shape.memory_mib
    }

    /// The cable of its network card, once: whoever takes it is the other end. For tests of the card.
    #[doc(hidden)]
    #[must_use]
    pub fn cable(&self) -> Option<tokio::net::UnixStream> {
        self.0.uplink.as_ref()?.take()
    }

    /// All that it does on its network from now on; `None`: it has none. There is one listener at a time, and
    /// one that is slow misses events, of which the [summary](Self::network) says the number.
    #[must_use]
    pub fn network_events(&self) -> Option<tokio::sync::mpsc::Receiver<NetworkEvent>> {
        Some(self.served()?.events())
    }

    /// What it has done on its network until now; `None`: it has none.
    #[must_use]
    pub fn network(&self) -> Option<NetworkOutcome> {
        Some(self.served()?.outcome())
    }

    /// Passes connections to a port of this host's loopback interface on to a port of the guest, until the
    /// sandbox ends; returns how it is reached.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): the sandbox has no network, or the port is in use.
    pub fn expose(&self, expose: PortMapping) -> Result<String, Error> {
        let none = "this sandbox has no network, so that no port of it can be reached; give its builder one";
        let served = self.served();
        served
            .ok_or_else(|| Error::new(ErrorKind::Invalid, none))?
            .expose_also(expose)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn served(&self) -> Option<&Served> {
        self.0.uplink.as_ref().and_then(Uplink::served)
    }

    /// What QEMU's human monitor says to a command, such as `info jit`: for measurements.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    pub async fn monitor(&self, command: &str) -> Result<String, Error> {
        self.0.life.vm().await?.monitor(command).await
    }

    /// Runs a program, in an interpreter of its own or in a context; several may run at once, and those of
    /// one context one after the other. Files stay until the sandbox ends.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): what is wrong, what the limit is;
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost): the sandbox has ended.
    pub fn run(&self, request: &RunRequest) -> Result<Run, Error> {
        let inner = &self.0;
        request.fits(self.memory_mib())?;
        let limits = &inner.host.config.limits;
        let (exec, timeout) = request.check(limits)?;
        let busy = self.busy(request.has_key())?;
        let accelerator = inner.host.accelerator;
        let begun = Begun::exec(
            &inner.channel,
            exec,
            timeout,
            inner.source,
            accelerator,
            limits,
        );
        Ok(self.drive(begun, busy).with_key(request.has_key()))
    }

    /// Starts a program. Dropping what is returned ends it; [`Run::detach`] leaves it to itself.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn spawn(&self, request: &SpawnRequest) -> Result<Run, Error> {
        let (spawn, timeout) = request.check(&self.0.host.config.limits)?;
        let key = spawn.idempotency_key.is_some();
        let busy = self.busy(key)?;
        let channel = &self.0.channel;
        let operation = channel.operate_within(window(key), None, |op_id, credit| {
            Request::Spawn(Spawn {
                op_id: Some(op_id),
                credit: Some(credit),
                ..spawn
            })
        });
        let begun = self.begun(operation, timeout, Beginning::Told(ANSWER));
        Ok(self.drive(begun, busy).with_key(key))
    }

    /// Follows a run or a program that was begun with this key, goes on or has ended, from this piece of its
    /// output on: 0 = all that is kept.
    ///
    /// # Errors
    /// As [`run`](Self::run). That there is no such key is told by [`Run::outcome`].
    pub fn attach(&self, key: impl Into<String>, from_seq: u64) -> Result<Run, Error> {
        let key = IdempotencyKey::new(key);
        key.check(&self.0.host.config.limits).map_err(invalid)?;
        let busy = self.busy(true)?;
        let channel = &self.0.channel;
        let operation = channel.operate_within(window(true), None, |op_id, credit| {
            Request::Attach(Attach {
                action: ActionTag,
                op_id: Some(op_id),
                idempotency_key: key,
                from_seq,
                credit: Some(credit),
            })
        });
        let begun = self.begun(operation, None, Beginning::Told(ANSWER));
        Ok(self.drive(begun, busy).with_key(true))
    }

    pub(super) fn begun(
        &self,
        operation: Operation,
        timeout: Option<Duration>,
        beginning: Beginning,
    ) -> Begun {
        let host = &self.0.host;
        Begun::new(
            operation,
            timeout,
            beginning,
            self.0.source,
            host.accelerator,
            &host.config.limits,
        )
    }

    pub(super) fn drive(&self, begun: Begun, busy: Busy) -> Run {
        let owner = Owner::Sandbox(self.0.life.clone(), busy);
        Run::drive(move |events, controls| begun.drive(events, controls, owner))
    }

    /// Keeps it from being idle. `has_key`: in a sandbox that has ended it may have run before.
    fn busy(&self, has_key: bool) -> Result<Busy, Error> {
        self.0.life.busy().map_err(|error| match has_key {
            true => error.after_start(),
            false => error,
        })
    }

    /// What runs in it: programs, interpreters, contexts.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>, Error> {
        let request = |op_id| {
            Request::ListProcesses(ListProcesses {
                action: ActionTag,
                op_id: Some(op_id),
            })
        };
        match self.ask(request).await? {
            Response::Processes(listed) => Ok(listed.processes),
            other => Err(self.odd(&other)),
        }
    }

    /// Begins an operation that is no program. `None` for its input: it comes later, or there is none.
    pub(crate) fn operate(
        &self,
        input: Option<bytes::Bytes>,
        request: impl FnOnce(fumehood_protocol::OpId, u64) -> Request,
    ) -> Result<(Operation, Busy), Error> {
        let busy = self.0.life.busy()?;
        let window = window(false);
        Ok((self.0.channel.operate_within(window, input, request), busy))
    }

    /// Asks for something that has one answer.
    pub(crate) async fn ask(
        &self,
        request: impl FnOnce(fumehood_protocol::OpId) -> Request,
    ) -> Result<Response, Error> {
        let (mut operation, _busy) = self.operate(None, |op_id, _| request(op_id))?;
        match self.next(&mut operation, ANSWER).await? {
            OperationEvent::Answer(response) => Ok(response),
            other => Err(self.odd(&other)),
        }
    }

    /// What an operation that is no program tells next.
    pub(crate) async fn next(
        &self,
        operation: &mut Operation,
        patience: Duration,
    ) -> Result<OperationEvent, Error> {
        match tokio::time::timeout(patience, operation.next()).await {
            Ok(Ok(OperationEvent::Refused(refusal))) => Err(refused(&refusal)),
            Ok(Ok(event)) => Ok(event),
            Ok(Err(error)) => Err(self.broken(error).await),
            Err(_) => Err(
                Error::new(ErrorKind::Lost, ChannelError::Silent(patience).to_string())
                    .after_start(),
            ),
        }
    }

    /// The conversation with the guest is over.
    pub(crate) async fn broken(&self, error: ChannelError) -> Error {
        match error {
            ChannelError::Violation(what) => {
                let message = format!("the guest broke the protocol: {what}");
                Error::new(ErrorKind::Protocol, message).after_start()
            }
            _ => Error::new(ErrorKind::Lost, self.0.life.why().await).after_start(),
        }
    }

    /// An answer that is none to what was asked. The guest is listened to no more.
    pub(crate) fn odd(&self, answer: &impl std::fmt::Debug) -> Error {
        let shown: String = format!("{answer:?}").chars().take(200).collect();
        self.violated(format!("an answer to something else: {shown}"))
    }

    /// The guest broke the protocol, and is listened to no more.
    pub(crate) fn violated(&self, what: String) -> Error {
        let message = format!("the guest broke the protocol: {what}");
        self.0.channel.end(ChannelError::Violation(what));
        Error::new(ErrorKind::Protocol, message).after_start()
    }

    pub(crate) fn limits(&self) -> &fumehood_protocol::Limits {
        &self.0.host.config.limits
    }

    /// Ends it after this time without anything that is asked of it or followed in it; none = never.
    pub fn set_idle_timeout(&self, time: Option<Duration>) {
        self.0.life.set_idle_timeout(time);
    }

    /// Ends it at this age, whatever runs in it; none = never.
    pub fn set_max_lifetime(&self, age: Option<Duration>) {
        self.0.life.set_max_lifetime(age);
    }

    /// Why it has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<SandboxEnd> {
        self.0.life.ended()
    }

    /// Waits until it has ended; returns why.
    pub async fn wait(&self) -> SandboxEnd {
        self.0.life.end_of_life().await
    }

    /// Ends it, whoever else has a clone of it; returns how long that took.
    pub async fn end(&self) -> Duration {
        self.0.life.end(SandboxEnd::Requested).await
    }
}

pub(crate) fn invalid(error: WireError) -> Error {
    Error::new(ErrorKind::Invalid, error.message)
}

use std::time::Duration;

use bytes::Bytes;
use fumehood_gateway::{Event as NetworkEvent, Summary as NetworkSummary};
use fumehood_protocol::{
    ContextName, EndedBy, EnvVars, Evidence, Exec, GuestPath, IdempotencyKey, Language, Limits,
    StreamSummary,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::control::{Control, Controls, Input, RunControl, controls};
use super::mime_bundle::MimeBundle;
use crate::config::DEFAULT_MEMORY_MIB;
use crate::error::{Error, ErrorKind};
use crate::host::{Accelerator, Isolation};
use crate::network::{Network, Prepared};
use crate::packages::{Asked, PackageStep};

/// Seconds that code may run unless a request says otherwise.
const DEFAULT_TIMEOUT_S: u64 = 30;

/// The least memory of a guest in MiB: kernel, agent and an interpreter fit.
const MIN_MEMORY_MIB: u32 = 96;

/// The most memory of a guest in MiB, 1 TiB; what this host can give is checked when it is asked for.
const MAX_MEMORY_MIB: u32 = 1024 * 1024;

/// Code to be run in a VM of its own.
#[derive(Debug, Clone)]
pub struct RunRequest {
    pub(crate) language: Language,
    pub(crate) code: String,
    env: Vec<(String, String)>,
    timeout_s: u64,
    memory_mib: Option<u32>,
    context: Option<String>,
    fresh_interpreter: bool,
    stdin: bool,
    display: bool,
    cwd: Option<String>,
    idempotency_key: Option<String>,
    network: Option<Network>,
    pub(crate) packages: Asked,
}

impl RunRequest {
    /// Memory of a guest unless a request says otherwise, in MiB.
    pub const DEFAULT_MEMORY_MIB: u32 = DEFAULT_MEMORY_MIB;

    /// Runs `code` with 512 MiB of memory, for 30 s at most.
    #[must_use]
    pub fn new(language: Language, code: impl Into<String>) -> Self {
        Self {
            language,
            code: code.into(),
            env: Vec::new(),
            timeout_s: DEFAULT_TIMEOUT_S,
            memory_mib: None,
            context: None,
            fresh_interpreter: false,
            stdin: false,
            display: false,
            cwd: None,
            idempotency_key: None,
            network: None,
            packages: Asked::default(),
        }
    }

    /// Gives the VM a network. A sandbox has the one of its builder.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Has the program find packages of its language, each with a version specifier as its package index takes it
    /// (`pandas==2.*`, `lodash@^4`). They are installed once, in a VM of their own, from the index that this host's
    /// tools are configured for; runs that ask for the same ones begin with them. A sandbox has those of its builder.
    #[must_use]
    pub fn packages(mut self, packages: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.packages
            .words
            .extend(packages.into_iter().map(Into::into));
        self
    }

    /// Resolves the packages again, whatever versions they came to before.
    #[must_use]
    pub fn refresh_packages(mut self) -> Self {
        self.packages.anew = true;
        self
    }

    /// Its network, made ready.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub(crate) fn prepared(&self) -> Result<Option<Prepared>, Error> {
        self.network.as_ref().map(Network::prepare).transpose()
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Ends the code after this many seconds; 0 = the most that the engine allows.
    #[must_use]
    pub fn timeout_s(mut self, seconds: u64) -> Self {
        self.timeout_s = seconds;
        self
    }

    /// Gives the guest this much memory, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = Some(mib);
        self
    }

    /// Runs in this context of a [`Sandbox`](crate::Sandbox): an interpreter that keeps its state
    /// between runs, begun by the first one that names it.
    #[must_use]
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }

    /// Runs in an interpreter started for it, instead of one that was warmed up before the VM was
    /// cloned: hash seeds and addresses are then shared with no other VM. Costs the interpreter's start.
    #[must_use]
    pub fn fresh_interpreter(mut self) -> Self {
        self.fresh_interpreter = true;
        self
    }

    /// Gives the program a standard input, written to by [`Run::input`]. Without it, it is empty.
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Asks for values: that of the last expression, and what the code shows otherwise, as
    /// [`Event::Result`]. Python and JavaScript have them.
    #[must_use]
    pub fn display(mut self) -> Self {
        self.display = true;
        self
    }

    /// Runs in this directory of the guest, absolute or below the user's home.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<String>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Names this run for ever: a request with the same key, in the same sandbox, follows the run that goes
    /// on or gets the end that was recorded, and never runs the code again. 1 to 128 printable ASCII
    /// characters without spaces.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Whether it names itself for ever.
    pub(crate) fn has_key(&self) -> bool {
        self.idempotency_key.is_some()
    }

    /// Whether it is for this context.
    pub(crate) fn is_in_context(&self, name: &str) -> bool {
        self.context.as_deref() == Some(name)
    }

    /// The memory of the VM, in MiB.
    pub(crate) fn memory(&self) -> u32 {
        self.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB)
    }

    /// Refuses to be run in a VM with other memory than it asks for.
    pub(crate) fn fits(&self, memory_mib: u32) -> Result<(), Error> {
        match self.memory_mib {
            Some(asked) if asked != memory_mib => {
                let message =
                    format!("{asked} MiB of memory are asked for; this sandbox has {memory_mib}");
                Err(Error::new(ErrorKind::Invalid, message))
            }
            _ if self.network.is_some() => {
                let message =
                    "a sandbox has the network of its builder; leave it out of its requests";
                Err(Error::new(ErrorKind::Invalid, message))
            }
            _ if !self.packages.words.is_empty() => {
                let message = "a sandbox has the packages of its builder; leave them out of its requests, or install them in it";
                Err(Error::new(ErrorKind::Invalid, message))
            }
            _ => Ok(()),
        }
    }

    /// The exec to send, and how long it may take, when all of it is allowed.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(Exec, Duration), Error> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        let asked = self.memory();
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&asked) {
            return Err(invalid(format!(
                "{asked} MiB of memory; {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} are allowed"
            )));
        }
        let mut exec = Exec::new(self.language, self.code.clone());
        exec.env_vars = self.env.iter().cloned().collect::<EnvVars>();
        exec.timeout = Some(i64::try_from(self.timeout_s).unwrap_or(i64::MAX));
        exec.context = self.context.as_deref().map(ContextName::new);
        exec.fresh = self.fresh_interpreter;
        exec.stdin = self.stdin;
        exec.display = self.display;
        exec.cwd = self.cwd.as_deref().map(GuestPath::new);
        exec.idempotency_key = self.idempotency_key.as_deref().map(IdempotencyKey::new);
        exec.check(limits).map_err(|error| invalid(error.message))?;
        let seconds = exec
            .timeout_s(limits)
            .map_err(|error| invalid(error.message))?;
        Ok((exec, Duration::from_secs(seconds)))
    }
}

/// What a run tells while it goes on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A run that has a VM of its own has it now; until then it waited for room, packages and the VM's start.
    Ready {
        /// Where the VM came from.
        source: VmOrigin,
    },
    /// The program wrote to standard output; to its terminal, where it has one.
    Stdout(Bytes),
    /// The program wrote to standard error.
    Stderr(Bytes),
    /// The program shows a value. See [`RunRequest::display`].
    Result(MimeBundle),
    /// A program was started, or a run that waited for its context.
    Started {
        /// Its process id in the guest.
        pid: i32,
    },
    /// A port of the guest is reached from this host. See [`Network::expose`].
    Exposed {
        /// Where.
        url: String,
    },
    /// Something is done for the run's packages, before its VM begins. See [`RunRequest::packages`].
    Packages(PackageStep),
    /// The program did something on its network, and it was decided on.
    Network(Box<NetworkEvent>),
    /// The run had been begun before, and is followed from this piece of output on.
    Attached {
        /// 0 = from the beginning; more than was asked for where that is not kept any more.
        from_seq: u64,
    },
}

/// Where a run's VM came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VmOrigin {
    /// A VM that waited, restored and exercised.
    Hot,
    /// A QEMU that waited, restored for this run from a template.
    Blank,
    /// A QEMU started and restored for this run from a template.
    Template,
    /// A boot for this run.
    Boot,
    /// A state that [`Sandbox::checkpoint`](crate::Sandbox::checkpoint) or
    /// [`Sandbox::fork`](crate::Sandbox::fork) took.
    Checkpoint,
}

impl VmOrigin {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Blank => "blank",
            Self::Template => "template",
            Self::Boot => "boot",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Waiting for room on this host.
    pub queue: Duration,
    /// From asking for a VM to its agent's word that it is ready: a boot, a restore, or next to nothing.
    pub start: Duration,
    /// From the agent's word to the code being sent.
    pub connect: Duration,
    /// From sending the code to the interpreter being ready, as the guest tells.
    pub spawn: Duration,
    /// From sending the code to the first byte of output; none = there was no output.
    pub first_output: Option<Duration>,
    /// From sending the code to its end.
    pub execute: Duration,
    /// Ending the VM.
    pub teardown: Duration,
    /// All of it.
    pub total: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the program exited with; 128 + signal when a signal ended it; 124 on timeout, 130 when
    /// cancelled, 137 when out of memory; none when the VM was lost.
    pub exit_code: Option<i32>,
    /// Why it ended.
    pub ended_by: EndedBy,
    /// What shows that, with CPU time and peak memory.
    pub evidence: Evidence,
    /// What the program wrote to standard output: bytes and checksum, verified on the way.
    pub stdout: StreamSummary,
    /// The same of standard error.
    pub stderr: StreamSummary,
    /// Where the VM came from.
    pub source: VmOrigin,
    /// What executed the guest's instructions.
    pub accelerator: Accelerator,
    /// Which walls stood around its VM; none: no VM was started.
    pub isolation: Option<Isolation>,
    /// Where the time went.
    pub timing: Timing,
    /// What its guest did on its network; none: it had none, or one of its sandbox's.
    pub network: Option<NetworkOutcome>,
}

/// What a guest did on its network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkOutcome {
    /// Where its exposed ports were reached, in the order of the request.
    pub urls: Vec<String>,
    /// Connections, bytes, and what was denied.
    pub summary: NetworkSummary,
}

/// A run in progress. Dropping it ends its program at once, and its VM, if that is its own.
#[derive(Debug)]
pub struct Run {
    events: mpsc::Receiver<Event>,
    driver: JoinHandle<Result<RunEnd, Error>>,
    canceller: RunControl,
    input: Input,
    has_key: bool,
}

/// How a run's driver ended.
#[derive(Debug)]
pub(crate) enum RunEnd {
    Outcome(Box<Outcome>),
    /// The program goes on by itself.
    Detached,
}

/// Events on their way to a caller. With chunks of 64 KiB a caller that does not read holds 1 MiB.
const EVENTS: usize = 16;

impl Run {
    /// Starts the task that drives it.
    pub(crate) fn drive<F>(driver: impl FnOnce(mpsc::Sender<Event>, Controls) -> F) -> Self
    where
        F: Future<Output = Result<RunEnd, Error>> + Send + 'static,
    {
        let (events, inbox) = mpsc::channel(EVENTS);
        let (canceller, input, controls) = controls();
        let driver = tokio::spawn(driver(events, controls));
        Self {
            events: inbox,
            driver,
            canceller,
            input,
            has_key: false,
        }
    }

    /// It can be found again by a key, or cannot.
    pub(crate) fn with_key(mut self, has_key: bool) -> Self {
        self.has_key = has_key;
        self
    }

    /// What it tells next; `None` when all has been told. A caller that waits makes the program
    /// wait: nothing is dropped and little is held.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Something that can cancel it from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> RunControl {
        self.canceller.clone()
    }

    /// Its standard input, where the request asked for one.
    #[must_use]
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// How it ended. Output that was not taken is dropped.
    ///
    /// # Errors
    /// [`Error`]: the run has no outcome; [`Error::retry`] tells whether the code may have run.
    pub async fn outcome(mut self) -> Result<Outcome, Error> {
        match self.end().await? {
            RunEnd::Outcome(outcome) => Ok(*outcome),
            RunEnd::Detached => Err(Error::new(
                ErrorKind::Lost,
                "the run goes on, and is followed by somebody else who attached to it",
            )
            .after_start()),
        }
    }

    /// Leaves the program to itself: it goes on, and can be followed again by
    /// [`Sandbox::attach`](crate::Sandbox::attach). `Some`: it had ended before.
    ///
    /// # Errors
    /// As [`outcome`](Self::outcome), and [`ErrorKind::Invalid`] for a run without idempotency key, which
    /// nobody could find again: it is cancelled, as by dropping it.
    pub async fn detach(mut self) -> Result<Option<Outcome>, Error> {
        if !self.has_key {
            let message =
                "a run without idempotency key cannot be found again; give its request one";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.canceller.ask(Control::Detach);
        match self.end().await? {
            RunEnd::Outcome(outcome) => Ok(Some(*outcome)),
            RunEnd::Detached => Ok(None),
        }
    }

    async fn end(&mut self) -> Result<RunEnd, Error> {
        while self.events.recv().await.is_some() {}
        match (&mut self.driver).await {
            Ok(result) => result,
            Err(failed) => Err(Error::new(
                ErrorKind::Lost,
                format!("the run's task failed: {failed}"),
            )
            .after_start()),
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
    use super::*;

    fn check(request: &RunRequest) -> Result<(Exec, Duration), Error> {
        request.check(&Limits::default())
    }

    #[test]
    fn memory_at_the_limits_and_past_them() {
        let request = RunRequest::new(Language::Shell, "");
        assert!(check(&request.clone().memory_mib(96)).is_ok());
        assert!(check(&request.clone().memory_mib(1024 * 1024)).is_ok());
        for mib in [0, 95, 1024 * 1024 + 1] {
            let error = check(&request.clone().memory_mib(mib)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(&mib.to_string()), "{error}");
        }
    }

    #[test]
    fn a_timeout_of_0_is_the_most_that_is_allowed() {
        let request = RunRequest::new(Language::Shell, "").timeout_s(0);
        assert_eq!(check(&request).unwrap().1, Duration::from_secs(300));
        assert!(check(&request.timeout_s(301)).is_err());
    }

    #[test]
    fn the_protocols_limits_hold_before_a_vm_is_started() {
        assert!(check(&RunRequest::new(Language::Shell, "x".repeat(2_097_153))).is_err());
        assert!(check(&RunRequest::new(Language::Shell, "").env("LD_PRELOAD", "x")).is_err());
    }
}

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_image::{Image, Store};
use fumehood_protocol::{
    Complete, EndedBy, ErrorMessage, ErrorType, Evidence, Exec, Language, PROTOCOL_VERSION,
    Request, StreamSummary,
};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::accelerator::{Accelerator, choose};
use crate::admission::{Admission, Place};
use crate::agent_line::AgentLine;
use crate::channel::{Channel, ChannelError};
use crate::config::{Config, Qemu};
use crate::error::{Error, ErrorKind, printable};
use crate::follow::{End, Follow};
use crate::launch::{Kit, Vm};
use crate::run::{Event, Outcome, RunRequest, Source, Timing};

/// Events on their way to a caller. With chunks of 64 KiB a caller that does not read holds 1 MiB.
const EVENTS: usize = 16;

/// This host, ready to run code. Cheap to clone; the VMs of a dropped engine die.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    image: Image,
    kit: Kit,
    admission: Admission,
    accelerator: Accelerator,
    accelerator_reason: String,
}

impl Engine {
    /// Finds QEMU and the image, chooses the accelerator. Takes a few milliseconds and starts
    /// no VM.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] and [`ErrorKind::Damaged`] with the command that mends it;
    /// [`ErrorKind::Host`] when this host does not permit something.
    pub fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        let qemu = Qemu::find(&config)?;
        let store = open_store(&config)?;
        let image = store.image(&config.image).map_err(image_error)?;
        let chosen = choose(config.accelerator)?;
        let kit = Kit::new(&qemu, chosen.accelerator, store.root(), &config.limits)?;
        let admission = Admission::new(config.queue_deadline);
        Ok(Self(Arc::new(Inner {
            config,
            image,
            kit,
            admission,
            accelerator: chosen.accelerator,
            accelerator_reason: chosen.reason,
        })))
    }

    /// What executes guests' instructions here.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.0.accelerator
    }

    /// Why it is that one, for a person.
    #[must_use]
    pub fn accelerator_reason(&self) -> &str {
        &self.0.accelerator_reason
    }

    /// Runs one program in a fresh VM. The request is checked at once; the VM is started while the
    /// caller goes on. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: what is wrong, what the limit is.
    pub fn run(&self, request: RunRequest) -> Result<Run, Error> {
        let (exec, timeout) = request.check(&self.0.config.limits)?;
        let (events, inbox) = mpsc::channel(EVENTS);
        let canceller = Canceller::default();
        let job = Job {
            engine: self.0.clone(),
            exec,
            timeout,
            memory_mib: request.memory_mib,
            cancel: canceller.clone(),
            events,
        };
        Ok(Run {
            events: inbox,
            driver: tokio::spawn(job.run()),
            canceller,
        })
    }

    /// Boots the image's kernel with `init` as its first process, on the machine that runs get, and
    /// returns the time from starting QEMU to the first byte on the console: the floor that
    /// measurements of boots are compared with.
    ///
    /// # Errors
    /// [`ErrorKind::Host`], [`ErrorKind::Boot`].
    pub async fn floor(&self, init: &[u8]) -> Result<Duration, Error> {
        let host = |e: std::io::Error| {
            Error::new(ErrorKind::Host, format!("no floor can be measured: {e}"))
        };
        let mut file = fumehood_sys::host::memory_file("floor-initrd").map_err(host)?;
        file.write_all(&fumehood_image::floor_initrd(init))
            .map_err(host)?;
        self.0
            .kit
            .floor(&self.0.image, file.into(), self.0.config.boot_deadline)
            .await
    }

    /// Boots a VM for somebody else to speak with its agent. See [`AgentLine`].
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`ErrorKind::Boot`].
    pub async fn agent_line(&self, memory_mib: u32) -> Result<AgentLine, Error> {
        RunRequest::new(Language::Raw, "")
            .memory_mib(memory_mib)
            .check(&self.0.config.limits)?;
        let (vm, socket, place) = self.0.boot(memory_mib, 0).await?;
        Ok(AgentLine::new(vm, place, socket))
    }
}

impl Inner {
    async fn boot(&self, memory_mib: u32, protocol: u32) -> Result<(Vm, UnixStream, Place), Error> {
        let (place, _turn) = self.admission.place_and_turn(memory_mib).await?;
        let deadline = self.config.boot_deadline;
        let (vm, socket) = self
            .kit
            .boot(&self.image, memory_mib, protocol, deadline)
            .await?;
        Ok((vm, socket, place))
    }
}

pub(crate) fn open_store(config: &Config) -> Result<Store, Error> {
    let root = match &config.store {
        Some(root) => root.clone(),
        None => Store::default_root().map_err(image_error)?,
    };
    Store::open(root).map_err(image_error)
}

pub(crate) fn image_error(error: fumehood_image::Error) -> Error {
    let kind = match &error {
        fumehood_image::Error::Missing { .. } => ErrorKind::Missing,
        fumehood_image::Error::Damaged { .. } => ErrorKind::Damaged,
        _ => ErrorKind::Host,
    };
    Error::new(kind, error.to_string()).caused_by(error)
}

/// Ends a run from anywhere. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Canceller(Arc<Notify>);

impl Canceller {
    /// Asks the run to end: its program gets SIGINT, then SIGTERM, then SIGKILL. The run still
    /// tells its outcome.
    pub fn cancel(&self) {
        self.0.notify_one();
    }
}

/// A run in progress. Dropping it ends its VM at once.
#[derive(Debug)]
pub struct Run {
    events: mpsc::Receiver<Event>,
    driver: JoinHandle<Result<Outcome, Error>>,
    canceller: Canceller,
}

impl Run {
    /// What it tells next; `None` when all has been told. A caller that waits makes the program
    /// wait: nothing is dropped and little is held.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Something that can cancel it from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// How it ended. Output that was not taken is dropped.
    ///
    /// # Errors
    /// [`Error`]: the run has no outcome; [`Error::retry`] tells whether the code may have run.
    pub async fn outcome(mut self) -> Result<Outcome, Error> {
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

/// One program, from the queue to the end of its VM.
struct Job {
    engine: Arc<Inner>,
    exec: Exec,
    timeout: Duration,
    memory_mib: u32,
    cancel: Canceller,
    events: mpsc::Sender<Event>,
}

impl Job {
    async fn run(self) -> Result<Outcome, Error> {
        let start = Instant::now();
        let mut timing = Timing::default();
        let vm = tokio::select! {
            vm = self.vm(&mut timing) => vm,
            () = self.cancel.0.notified() => return Ok(self.never_started(start)),
        };
        let (vm, socket, _place) = vm?;
        timing.boot = vm.boot;
        let connecting = Instant::now();
        let channel = Channel::new(socket);
        let exec = self.exec;
        let operation = channel.operate(|op_id, credit| {
            Request::Exec(Exec {
                op_id: Some(op_id),
                credit: Some(credit),
                ..exec
            })
        });
        timing.connect = connecting.elapsed();
        let patience = patience(&self.engine.config);
        let mut follow = Follow::new(
            operation,
            self.events,
            self.cancel.0,
            self.timeout,
            patience,
        );
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
            accelerator: self.engine.accelerator,
            timing,
        })
    }

    async fn vm(&self, timing: &mut Timing) -> Result<(Vm, UnixStream, Place), Error> {
        let start = Instant::now();
        let (vm, socket, place) = self.engine.boot(self.memory_mib, PROTOCOL_VERSION).await?;
        timing.queue = start.elapsed().saturating_sub(vm.boot);
        Ok((vm, socket, place))
    }

    fn never_started(&self, start: Instant) -> Outcome {
        let detail = "cancelled before the code was started".to_string();
        Outcome {
            exit_code: Some(CANCELLED),
            ended_by: EndedBy::Cancelled,
            evidence: Evidence {
                detail: Some(detail),
                ..Evidence::default()
            },
            stdout: StreamSummary::default(),
            stderr: StreamSummary::default(),
            source: Source::Boot,
            accelerator: self.engine.accelerator,
            timing: Timing {
                total: start.elapsed(),
                ..Timing::default()
            },
        }
    }
}

/// The exit code of what was cancelled, as shells have it for an interrupt.
const CANCELLED: i32 = 130;
/// The exit code of what ran out of time, as `timeout` has it.
const TIMED_OUT: i32 = 124;

/// What an outcome says about the end.
struct Ending {
    exit_code: Option<i32>,
    ended_by: EndedBy,
    evidence: Evidence,
}

/// Ends the VM and says how the operation ended.
async fn ending(
    end: Result<End, ChannelError>,
    cancelled: bool,
    vm: Vm,
    timing: &mut Timing,
) -> Result<Ending, Error> {
    let given_up = |detail: String| {
        let (ended_by, code) = if cancelled {
            (EndedBy::Cancelled, CANCELLED)
        } else {
            (EndedBy::Timeout, TIMED_OUT)
        };
        lost(ended_by, Some(code), detail)
    };
    Ok(match end {
        Ok(End::Complete(complete)) => {
            timing.spawn = Duration::from_millis(complete.spawn_ms.unwrap_or(0));
            timing.teardown = vm.end().await;
            let Complete {
                exit_code,
                ended_by,
                evidence,
                ..
            } = complete;
            let detail = evidence.detail.map(|detail| printable(&detail));
            Ending {
                exit_code: Some(exit_code),
                ended_by,
                evidence: Evidence { detail, ..evidence },
            }
        }
        Ok(End::Refused(refusal)) => return Err(refused(&refusal)),
        Ok(End::Overdue) => {
            let words = vm.last_words();
            timing.teardown = vm.end().await;
            given_up(format!(
                "the guest did not end it in time, so its VM was ended{words}"
            ))
        }
        Ok(End::Stalled) => {
            timing.teardown = vm.end().await;
            lost(
                EndedBy::Cancelled,
                Some(CANCELLED),
                "nobody took its output, so its VM was ended".into(),
            )
        }
        Err(ChannelError::Violation(what)) => {
            vm.end().await;
            let message = format!("the guest broke the protocol and its VM was ended: {what}");
            return Err(Error::new(ErrorKind::Protocol, message).after_start());
        }
        Err(ChannelError::Closed | ChannelError::Silent(_)) => {
            lost(EndedBy::AgentLost, None, vm.post_mortem().await)
        }
    })
}

fn lost(ended_by: EndedBy, exit_code: Option<i32>, detail: String) -> Ending {
    let detail = Some(printable(&detail));
    Ending {
        exit_code,
        ended_by,
        evidence: Evidence {
            detail,
            ..Evidence::default()
        },
    }
}

/// The agent's word that it did not run the code.
fn refused(refusal: &ErrorMessage) -> Error {
    let kind = match refusal.error_type {
        ErrorType::BusyError => ErrorKind::Busy,
        ErrorType::AgentError => ErrorKind::Host,
        ErrorType::ProtocolError | ErrorType::AuthError => ErrorKind::Protocol,
        ErrorType::RequestError
        | ErrorType::CodeError
        | ErrorType::EnvVarError
        | ErrorType::PackageError
        | ErrorType::PathError => ErrorKind::Invalid,
    };
    Error::new(
        kind,
        format!(
            "the guest's agent did not run the code: {}",
            refusal.message
        ),
    )
}

/// How long a guest may take to end a program: SIGINT, SIGTERM, SIGKILL, and a margin for a busy host.
fn patience(config: &Config) -> Duration {
    const MARGIN: Duration = Duration::from_secs(10);
    3 * Duration::from_millis(config.limits.grace_ms) + MARGIN
}

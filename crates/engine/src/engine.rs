use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_image::{Image, Store};
use fumehood_protocol::{EndedBy, Evidence, Language, PROTOCOL_VERSION, StreamSummary};
use tokio::net::UnixStream;

use crate::accelerator::{Accelerator, choose};
use crate::admission::{Admission, Place};
use crate::agent_line::AgentLine;
use crate::config::{Config, Qemu};
use crate::ending::CANCELLED;
use crate::error::{Error, ErrorKind};
use crate::launch::Kit;
use crate::run::{Outcome, Run, RunRequest, Source, Timing};
use crate::sandbox::Sandbox;
use crate::vm::Vm;

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
        let (engine, memory_mib) = (self.0.clone(), request.memory());
        Ok(Run::drive(move |events, cancel| async move {
            let start = Instant::now();
            let booted = tokio::select! {
                booted = engine.sandbox(memory_mib) => booted,
                () = cancel.notified() => return Ok(engine.never_started(start)),
            };
            let (sandbox, queue) = booted?;
            let mut outcome = sandbox.run_and_end(exec, timeout, events, cancel).await?;
            outcome.timing.queue = queue;
            outcome.timing.total = start.elapsed();
            Ok(outcome)
        }))
    }

    /// Boots a VM that is kept until it is dropped: several programs may run in it, also at once.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`ErrorKind::Boot`].
    pub async fn sandbox(&self, memory_mib: u32) -> Result<Sandbox, Error> {
        RunRequest::new(Language::Raw, "")
            .memory_mib(memory_mib)
            .check(&self.0.config.limits)?;
        Ok(self.0.sandbox(memory_mib).await?.0)
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
    /// A fresh sandbox, and how long it waited for room.
    async fn sandbox(&self, memory_mib: u32) -> Result<(Sandbox, Duration), Error> {
        let start = Instant::now();
        let (vm, socket, place) = self.boot(memory_mib, PROTOCOL_VERSION).await?;
        let queue = start.elapsed().saturating_sub(vm.boot);
        let limits = self.config.limits;
        Ok((
            Sandbox::new(vm, socket, place, limits, memory_mib, self.accelerator),
            queue,
        ))
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
            accelerator: self.accelerator,
            timing: Timing {
                total: start.elapsed(),
                ..Timing::default()
            },
        }
    }

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

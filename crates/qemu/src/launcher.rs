use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use fumehood_launcher::{IsolationLayer, Namespaces, User};

use crate::attempt::{Attempt, Refused};
use crate::cgroup::{Hierarchy, ResourceLimits};
use crate::needs::files_of;
use crate::process::Process;

/// Why a QEMU process could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("{program} could not be started: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The launcher did not start it.
    #[error("{0}")]
    Refused(String),
    /// All walls are required, and not all can be put up.
    #[error(
        "full isolation is required, and cannot be had here: {0}; `fumehood doctor` says how to mend it"
    )]
    Walls(String),
    /// The thread that starts processes is gone.
    #[error("the launcher has ended; QEMU cannot be started any more")]
    LauncherGone,
}

/// What every QEMU of an engine is started with.
#[derive(Debug, Clone)]
pub struct LaunchConfig {
    /// The program that puts up the walls.
    pub launcher: PathBuf,
    /// QEMU.
    pub program: PathBuf,
    /// Devices that it may use.
    pub devices: Vec<PathBuf>,
    /// Whom it becomes. One that stays who it is gets a user namespace, unless it is root.
    pub user: User,
    /// Whether all walls are required: without one nothing is started.
    pub require_all_layers: bool,
}

/// One QEMU that is to be started.
#[derive(Debug)]
pub struct ProcessSpec {
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Descriptors that keep their numbers in it and are closed here.
    pub inherit: Vec<OwnedFd>,
    /// What it may take.
    pub limits: ResourceLimits,
}

/// What is sent to the thread that forks.
#[derive(Debug)]
pub(crate) struct Request {
    wanted: ProcessSpec,
    /// Goes into the process: while it is there, the thread goes on.
    hold: Sender<Request>,
    started: tokio::sync::oneshot::Sender<Result<Process, ProcessError>>,
}

/// Starts QEMU processes, walled in. They die when they are dropped, and when this program is killed.
///
/// A parent-death signal fires when the *thread* that forked ends, so one thread forks, for as long
/// as the launcher or any process that it started is there.
#[derive(Debug)]
pub struct Launcher {
    requests: Sender<Request>,
}

impl Launcher {
    /// Starts the thread that forks.
    ///
    /// # Errors
    /// The operating system's, when it gives no thread.
    pub fn new(setting: LaunchConfig) -> io::Result<Self> {
        let (requests, inbox) = channel();
        std::thread::Builder::new()
            .name("qemu-launcher".into())
            .spawn(move || serve(setting, &inbox))?;
        Ok(Self { requests })
    }

    /// Starts QEMU.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub async fn start(&self, wanted: ProcessSpec) -> Result<Process, ProcessError> {
        let (started, answer) = tokio::sync::oneshot::channel();
        let request = Request {
            wanted,
            hold: self.requests.clone(),
            started,
        };
        let sent = self.requests.send(request);
        sent.map_err(|_| ProcessError::LauncherGone)?;
        answer.await.map_err(|_| ProcessError::LauncherGone)?
    }

    /// Has the walls put up around a QEMU that only tells its version, and ends it. Returns those that
    /// do not stand, each with the reason. Takes some 20 ms.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn probe_isolation(
        setting: LaunchConfig,
    ) -> Result<Vec<(IsolationLayer, String)>, ProcessError> {
        let mut starter = Starter::new(setting);
        let wanted = ProcessSpec {
            args: vec!["--version".into()],
            inherit: Vec::new(),
            limits: ResourceLimits {
                memory_mib: 512,
                threads: 64,
                processor_percent: 200,
            },
        };
        let process = starter.start(&wanted, None)?;
        let missing = process.missing_layers().iter();
        Ok(missing.map(|wall| (*wall, starter.reason(*wall))).collect())
    }
}

fn serve(setting: LaunchConfig, inbox: &Receiver<Request>) {
    // What is found out once is found out while whoever wants the first QEMU still prepares.
    let mut starter = Starter::new(setting);
    while let Ok(request) = inbox.recv() {
        let process = starter.start(&request.wanted, Some(request.hold));
        // Whoever asked may have gone: the process ends by its own drop.
        let _ = request.started.send(process);
    }
}

/// What has been found out about this host: which files QEMU needs, and which walls can be put up.
struct Starter {
    setting: LaunchConfig,
    files: io::Result<Vec<PathBuf>>,
    namespaces: Namespaces,
    hierarchy: Option<Hierarchy>,
    /// What owners that were killed left is all gone.
    swept: bool,
    /// Why walls are missing.
    reasons: Vec<(IsolationLayer, String)>,
}

impl Starter {
    fn new(setting: LaunchConfig) -> Self {
        let files = files_of(&setting.program);
        let is_root = rustix::process::geteuid().is_root();
        let namespaces = if is_root && setting.user != User::Same {
            Namespaces::Privileged
        } else {
            Namespaces::InUserNamespace
        };
        let mut reasons = Vec::new();
        let hierarchy = Hierarchy::find();
        let hierarchy = hierarchy.map_err(|why| reasons.push((IsolationLayer::Cgroup, why)));
        Self {
            setting,
            files,
            namespaces,
            hierarchy: hierarchy.ok(),
            swept: false,
            reasons,
        }
    }

    /// Starts one with all walls that can be put up here; a wall that cannot is not tried again.
    fn start(
        &mut self,
        wanted: &ProcessSpec,
        hold: Option<Sender<Request>>,
    ) -> Result<Process, ProcessError> {
        if let Some(hierarchy) = self.hierarchy.as_ref().filter(|_| !self.swept) {
            self.swept = hierarchy.sweep();
        }
        loop {
            let (wall, what) = match self.attempt(wanted, hold.clone()) {
                Ok(process) => return self.accept(process),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::IsolationLayer(wall, what)) => (wall, what),
            };
            if self.setting.require_all_layers {
                return Err(ProcessError::Walls(what));
            }
            match wall {
                IsolationLayer::Cgroup if self.hierarchy.is_some() => self.hierarchy = None,
                IsolationLayer::Namespaces if self.namespaces != Namespaces::None => {
                    self.namespaces = Namespaces::None;
                }
                _ => return Err(ProcessError::Refused(what)),
            }
            tracing::warn!(%what, "a wall around QEMU cannot be put up here");
            self.reasons.push((wall, what));
        }
    }

    fn attempt(
        &self,
        wanted: &ProcessSpec,
        hold: Option<Sender<Request>>,
    ) -> Result<Process, Refused> {
        let spawn = |source: &io::Error| {
            Refused::Error(ProcessError::Spawn {
                program: self.setting.program.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            })
        };
        let files = self.files.as_ref().map_err(spawn)?;
        let cgroup = self.hierarchy.as_ref();
        let cgroup = cgroup.map(|hierarchy| hierarchy.make(&wanted.limits));
        let cgroup = cgroup.transpose();
        let cgroup =
            cgroup.map_err(|what| Refused::IsolationLayer(IsolationLayer::Cgroup, what))?;
        let attempt = Attempt {
            setting: &self.setting,
            files,
            namespaces: self.namespaces,
            wanted,
        };
        attempt.make(cgroup, hold)
    }

    fn accept(&self, process: Process) -> Result<Process, ProcessError> {
        let missing = process.missing_layers();
        if !self.setting.require_all_layers || missing.is_empty() {
            return Ok(process);
        }
        let whys = missing.iter().map(|wall| self.reason(*wall));
        Err(ProcessError::Walls(whys.collect::<Vec<_>>().join("; ")))
    }

    fn reason(&self, wall: IsolationLayer) -> String {
        let known = self.reasons.iter().find(|(of, _)| *of == wall);
        known.map_or_else(|| usual_reason(wall).to_string(), |(_, why)| why.clone())
    }
}

fn usual_reason(wall: IsolationLayer) -> &'static str {
    match wall {
        IsolationLayer::User => "no user of its own can be given to QEMU",
        IsolationLayer::Namespaces => "no namespaces can be made",
        IsolationLayer::Landlock => {
            "this kernel has no Landlock, or none that holds back signals and sockets"
        }
        IsolationLayer::Cgroup => "no cgroup can be made",
    }
}

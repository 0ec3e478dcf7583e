use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use fumehood_launcher::IsolationLayer;
use tokio::sync::oneshot;

use super::qemu_process::Process;
use super::spec::{LaunchConfig, ProcessError, ProcessSpec, ProcessStart, ResourceLimits};
use super::starter::Starter;

/// A request to the thread that forks.
#[derive(Debug)]
struct Request {
    spec: ProcessSpec,
    answer: oneshot::Sender<Result<Process, ProcessError>>,
}

/// Starts isolated QEMU processes. They die when they are dropped, and when this program is killed.
///
/// A parent-death signal fires when the *thread* that forked ends. So one thread forks all processes, and runs
/// as long as the launcher or any of its processes exists.
#[derive(Debug)]
pub struct Launcher {
    requests: Sender<Request>,
}

impl Launcher {
    /// Starts the thread that forks.
    ///
    /// # Errors
    /// The error of the operating system, if it cannot create a thread.
    pub fn new(config: LaunchConfig) -> io::Result<Self> {
        let (requests, inbox) = channel();
        std::thread::Builder::new()
            .name("qemu-launcher".into())
            .spawn(move || serve(config, &inbox))?;
        Ok(Self { requests })
    }

    /// Starts a QEMU process.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub async fn start(&self, spec: ProcessSpec) -> Result<Process, ProcessError> {
        let (answer, result) = oneshot::channel();
        let sent = self.requests.send(Request { spec, answer });
        sent.map_err(|_| ProcessError::LauncherGone)?;
        result.await.map_err(|_| ProcessError::LauncherGone)?
    }

    /// Isolates a QEMU that only prints its version, and kills it. Returns the layers that are not available,
    /// each with the reason. Takes some 20 ms.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn probe_isolation(
        config: LaunchConfig,
    ) -> Result<Vec<(IsolationLayer, String)>, ProcessError> {
        let mut starter = Starter::new(config);
        let spec = ProcessSpec {
            start: ProcessStart::Execute {
                args: vec!["--version".into()],
                inherit: Vec::new(),
            },
            limits: ResourceLimits {
                memory_mib: 512,
                threads: 64,
                processor_percent: 200,
            },
        };

        let process = starter.start(&spec, None)?;
        let missing = process.missing_layers().iter();
        Ok(missing
            .map(|layer| (*layer, starter.reason(*layer)))
            .collect())
    }
}

/// Starts processes until the launcher is dropped, then waits until all of its processes are dropped.
fn serve(config: LaunchConfig, inbox: &Receiver<Request>) {
    let (keep_alive, all_dropped) = channel();

    // This examines the host while the caller still prepares its first QEMU.
    let mut starter = Starter::new(config);
    while let Ok(request) = inbox.recv() {
        let process = starter.start(&request.spec, Some(keep_alive.clone()));
        // If the caller is gone, dropping the process ends it.
        let _ = request.answer.send(process);
    }

    drop(keep_alive);
    let _ = all_dropped.recv();
}

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use fumehood_sys::host::{Confinement, Credentials, Namespaces, Walls, spawn};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

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
    /// The thread that starts processes is gone.
    #[error("the launcher has ended; QEMU cannot be started any more")]
    LauncherGone,
}

/// What every QEMU of a launcher is started with.
#[derive(Debug, Clone)]
struct Setting {
    program: PathBuf,
    credentials: Option<Credentials>,
    namespaces: Namespaces,
    walls: Option<Arc<Walls>>,
}

#[derive(Debug)]
struct Order {
    args: Vec<OsString>,
    inherit: Vec<OwnedFd>,
    /// Goes into the process: while it is there, the thread goes on.
    hold: Sender<Order>,
    started: tokio::sync::oneshot::Sender<Result<Process, ProcessError>>,
}

/// Starts QEMU processes, confined. They die when they are dropped, and when this program is killed.
///
/// A parent-death signal fires when the *thread* that forked ends, so one thread forks, for as long
/// as the launcher or any process that it started is there.
#[derive(Debug)]
pub struct Launcher {
    orders: Sender<Order>,
}

impl Launcher {
    /// Starts the thread that forks.
    ///
    /// # Errors
    /// The operating system's, when it gives no thread.
    pub fn new(
        program: &Path,
        credentials: Option<Credentials>,
        namespaces: Namespaces,
        walls: Option<Walls>,
    ) -> io::Result<Self> {
        let setting = Setting {
            program: program.to_path_buf(),
            credentials,
            namespaces,
            walls: walls.map(Arc::new),
        };
        let (orders, inbox) = channel();
        std::thread::Builder::new()
            .name("qemu-launcher".into())
            .spawn(move || serve(&setting, &inbox))?;
        Ok(Self { orders })
    }

    /// Starts QEMU with these arguments; the descriptors in `inherit` keep their numbers in it and
    /// are closed here.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub async fn start(
        &self,
        args: Vec<OsString>,
        inherit: Vec<OwnedFd>,
    ) -> Result<Process, ProcessError> {
        let (started, answer) = tokio::sync::oneshot::channel();
        self.orders
            .send(Order {
                args,
                inherit,
                hold: self.orders.clone(),
                started,
            })
            .map_err(|_| ProcessError::LauncherGone)?;
        answer.await.map_err(|_| ProcessError::LauncherGone)?
    }
}

fn serve(setting: &Setting, inbox: &Receiver<Order>) {
    while let Ok(order) = inbox.recv() {
        let process = start(setting, &order.args, &order.inherit, order.hold);
        // Whoever asked may have gone: the process ends by its own drop.
        let _ = order.started.send(process);
    }
}

fn start(
    setting: &Setting,
    args: &[OsString],
    inherit: &[OwnedFd],
    hold: Sender<Order>,
) -> Result<Process, ProcessError> {
    let mut command = Command::new(&setting.program);
    // No environment: nothing of the owner's (tokens, proxies) is in QEMU's memory.
    command.args(args).env_clear().current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let confinement = Confinement {
        credentials: setting.credentials,
        namespaces: setting.namespaces,
        walls: setting.walls.as_deref(),
        inherit: &inherit.iter().collect::<Vec<_>>(),
    };
    spawn(command, &confinement)
        .map(|child| Process::new(child, hold))
        .map_err(|source| ProcessError::Spawn {
            program: setting.program.clone(),
            source,
        })
}

/// What is kept of a process's standard error, in bytes.
const COMPLAINT_BYTES: usize = 4096;

/// A running QEMU. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Its standard error; taken over by the runtime at the first wait. QEMU alone holds the other
    /// end, so the end of this pipe is the sign to look whether QEMU has ended.
    stderr: Option<Stderr>,
    complaint: Vec<u8>,
    _hold: Sender<Order>,
}

#[derive(Debug)]
enum Stderr {
    New(ChildStderr),
    Watched(pipe::Receiver),
}

impl Process {
    fn new(mut child: Child, hold: Sender<Order>) -> Self {
        let stderr = child.stderr.take().map(Stderr::New);
        Self {
            child,
            stderr,
            complaint: Vec::new(),
            _hold: hold,
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(Stderr::New(stderr)) = self
            .stderr
            .take_if(|stderr| matches!(stderr, Stderr::New(_)))
        {
            self.stderr = Some(Stderr::Watched(pipe::Receiver::from_owned_fd(
                stderr.into(),
            )?));
        }
        if let Some(Stderr::Watched(stderr)) = &mut self.stderr {
            let mut buffer = [0; 1024];
            loop {
                let n = stderr.read(&mut buffer).await?;
                if n == 0 {
                    break;
                }
                let room = COMPLAINT_BYTES.saturating_sub(self.complaint.len());
                self.complaint.extend_from_slice(&buffer[..n.min(room)]);
            }
        }
        // A process that ends closes its files last, so one look is enough as a rule. One that has
        // closed its standard error and goes on must not block the runtime.
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Kills it and waits for its end; returns how long that took.
    pub async fn kill(mut self) -> Duration {
        let start = Instant::now();
        let _ = self.child.kill();
        let _ = self.wait().await;
        start.elapsed()
    }

    /// What it wrote to standard error, up to 4 KiB; complete when [`wait`](Self::wait) has returned.
    #[must_use]
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.complaint).trim().to_string()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

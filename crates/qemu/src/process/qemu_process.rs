use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use fumehood_launcher::IsolationLayer;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::cgroup::Cgroup;
use super::child::OwnedChild;

/// The maximum part of a process's standard error that is stored, in bytes.
const MAX_STDERR_BYTES: usize = 4096;

/// Keeps the thread that started a process running: the thread ends when all of these are dropped. Nothing is
/// ever sent.
pub(super) type KeepAlive = Sender<Infallible>;

/// A running QEMU. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: OwnedChild,
    /// Its standard error, registered with the runtime at the first wait. Only QEMU holds the other end, so the
    /// end of this pipe signals that QEMU has probably ended.
    stderr: Option<Stderr>,
    stderr_tail: Vec<u8>,
    missing_layers: Vec<IsolationLayer>,
    /// Removed after the process has been waited for.
    _cgroup: Option<Cgroup>,
    _keep_alive: Option<KeepAlive>,
}

#[derive(Debug)]
enum Stderr {
    New(OwnedFd),
    Registered(pipe::Receiver),
}

impl Process {
    pub(super) fn new(
        child: OwnedChild,
        stderr: OwnedFd,
        missing_layers: Vec<IsolationLayer>,
        cgroup: Option<Cgroup>,
        keep_alive: Option<KeepAlive>,
    ) -> Self {
        Self {
            child,
            stderr: Some(Stderr::New(stderr)),
            stderr_tail: Vec::new(),
            missing_layers,
            _cgroup: cgroup,
            _keep_alive: keep_alive,
        }
    }

    /// Returns its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the isolation layers that it lacks, as its launcher reported them. Empty = it is fully isolated.
    #[must_use]
    pub fn missing_layers(&self) -> &[IsolationLayer] {
        &self.missing_layers
    }

    /// Waits until it exits, and returns its exit status.
    ///
    /// # Errors
    /// The error of the operating system.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.read_stderr().await?;

        // A process that exits closes its files last, so one look is usually enough. But a process that has
        // closed its standard error and continues must not block the runtime.
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Reads standard error to its end.
    async fn read_stderr(&mut self) -> io::Result<()> {
        if let Some(Stderr::New(stderr)) = self
            .stderr
            .take_if(|stderr| matches!(stderr, Stderr::New(_)))
        {
            let receiver = pipe::Receiver::from_owned_fd(stderr)?;
            self.stderr = Some(Stderr::Registered(receiver));
        }

        let Some(Stderr::Registered(stderr)) = &mut self.stderr else {
            return Ok(());
        };
        let mut buffer = [0; 1024];
        loop {
            let n = stderr.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            let capacity = MAX_STDERR_BYTES.saturating_sub(self.stderr_tail.len());
            self.stderr_tail
                .extend_from_slice(&buffer[..n.min(capacity)]);
        }
    }

    /// Kills it, waits for its end, and returns how long that took.
    pub async fn kill(mut self) -> Duration {
        let start = Instant::now();
        self.child.kill();
        let _ = self.wait().await;
        start.elapsed()
    }

    /// Returns its standard error, up to 4 KiB; complete after [`wait`](Self::wait) has returned.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        String::from_utf8_lossy(&self.stderr_tail)
            .trim()
            .to_string()
    }
}

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ExitStatus};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use fumehood_launcher::IsolationLayer;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::cgroup::Cgroup;
use crate::launcher::Request;

/// What is kept of a process's standard error, in bytes.
const STDERR_TAIL_BYTES: usize = 4096;

/// A running QEMU. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Reaped,
    /// Its standard error; taken over by the runtime at the first wait. QEMU alone holds the other
    /// end, so the end of this pipe is the sign to look whether QEMU has ended.
    stderr: Option<Stderr>,
    stderr_tail: Vec<u8>,
    missing: Vec<IsolationLayer>,
    /// Removed after the process has been waited for.
    _cgroup: Option<Cgroup>,
    _hold: Option<Sender<Request>>,
}

#[derive(Debug)]
enum Stderr {
    New(ChildStderr),
    Watched(pipe::Receiver),
}

/// A child of this process that is killed and waited for, at the latest when it is dropped.
#[derive(Debug)]
pub(crate) struct Reaped {
    pid: Pid,
    ended: Option<ExitStatus>,
}

impl Reaped {
    /// The child of this number; none where no process can have it.
    pub(crate) fn new(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        Some(Self { pid, ended: None })
    }

    fn look(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        while self.ended.is_none() {
            match waitpid(Some(self.pid), options) {
                Ok(Some((_, status))) => self.ended = Some(ExitStatus::from_raw(status.as_raw())),
                Ok(None) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.ended)
    }

    /// Until it has been waited for, its number is no other process's.
    fn kill(&self) {
        if self.ended.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.kill();
        let _ = self.look(WaitOptions::empty());
    }
}

impl Process {
    pub(crate) fn new(
        child: Reaped,
        stderr: Option<ChildStderr>,
        missing: Vec<IsolationLayer>,
        cgroup: Option<Cgroup>,
        hold: Option<Sender<Request>>,
    ) -> Self {
        Self {
            child,
            stderr: stderr.map(Stderr::New),
            stderr_tail: Vec::new(),
            missing,
            _cgroup: cgroup,
            _hold: hold,
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The walls that do not stand around it, as its launcher told; none = all stand.
    #[must_use]
    pub fn missing_layers(&self) -> &[IsolationLayer] {
        &self.missing
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
                let room = STDERR_TAIL_BYTES.saturating_sub(self.stderr_tail.len());
                self.stderr_tail.extend_from_slice(&buffer[..n.min(room)]);
            }
        }
        // A process that ends closes its files last, so one look is enough as a rule. One that has
        // closed its standard error and goes on must not block the runtime.
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.look(WaitOptions::NOHANG)? {
                return Ok(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Kills it and waits for its end; returns how long that took.
    pub async fn kill(mut self) -> Duration {
        let start = Instant::now();
        self.child.kill();
        let _ = self.wait().await;
        start.elapsed()
    }

    /// What it wrote to standard error, up to 4 KiB; complete when [`wait`](Self::wait) has returned.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        String::from_utf8_lossy(&self.stderr_tail)
            .trim()
            .to_string()
    }
}

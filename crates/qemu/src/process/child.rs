use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A child of this process. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub(super) struct OwnedChild {
    pid: Pid,
    status: Option<ExitStatus>,
}

impl OwnedChild {
    /// Takes ownership of the child with this process id. Returns `None` if no process can have it.
    pub(super) fn new(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        Some(Self { pid, status: None })
    }

    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns the exit status if the child has ended, without waiting.
    pub(super) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.wait_with(WaitOptions::NOHANG)
    }

    /// Waits until the child has ended.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.wait_with(WaitOptions::empty()).map(drop)
    }

    fn wait_with(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        while self.status.is_none() {
            match waitpid(Some(self.pid), options) {
                Ok(Some((_, status))) => self.status = Some(ExitStatus::from_raw(status.as_raw())),
                Ok(None) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.status)
    }

    /// Kills the child. The kernel does not reuse its id before it has been waited for.
    pub(super) fn kill(&self) {
        if self.status.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait_with(WaitOptions::empty());
    }
}

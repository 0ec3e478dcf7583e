use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::cgroup::{Cgroups, field, open_file, read};

/// Detects that programs have filled their memory and make no progress any more.
///
/// The kernel kills a program only when there is nothing left to drop. The programs' own code can always be dropped, but
/// must be read again at once: measured in a guest of 256 MiB, a program that allocated memory in small pieces stayed in
/// this state without end. A page that is read again soon after it was dropped is a refault. Thousands of them per second,
/// with almost nothing left to drop, indicate the state.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    directory: OwnedFd,
    /// The file that the kernel marks whenever the limit was reached.
    events: OwnedFd,
    suspicion: Option<StallSuspicion>,
}

#[derive(Debug, Clone, Copy)]
struct StallSuspicion {
    check_at: Instant,
    /// Number of refaults at the last check.
    refaults: u64,
    /// Number of kills by the kernel so far.
    kills: u64,
    confirmations: u32,
}

/// How often to check while there is a suspicion.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Number of consecutive checks that must confirm it.
const REQUIRED_CONFIRMATIONS: u32 = 2;
/// Refaults between two checks that confirm it, in pages. Measured without progress: 5,000.
const STALL_REFAULTS: u64 = 500;
/// Minimum of file pages that programs keep while they make progress, in bytes. Measured without progress: less than
/// 1 MiB; right before: 2 MiB and more.
const STALL_FILE_BYTES: u64 = 2 * 1024 * 1024;

impl MemoryWatch {
    /// Starts to watch all cgroups in `cgroups` together.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub(crate) fn new(cgroups: &Cgroups) -> io::Result<Self> {
        let directory = cgroups.as_fd().try_clone_to_owned()?;
        let events = open_file(directory.as_fd(), "memory.events")?;
        let watch = Self {
            directory,
            events,
            suspicion: None,
        };
        watch.rearm();
        Ok(watch)
    }

    /// The descriptor to poll for an exceptional condition, while there is no suspicion.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.suspicion.is_none().then(|| self.events.as_fd())
    }

    /// When to check again, while there is a suspicion.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.suspicion.map(|suspicion| suspicion.check_at)
    }

    /// Starts a suspicion, because the limit was reached.
    pub(crate) fn limit_reached(&mut self, now: Instant) {
        let kills = self.rearm();
        let (refaults, _) = self.read_counters();
        self.suspicion = Some(StallSuspicion {
            check_at: now + CHECK_INTERVAL,
            refaults,
            kills,
            confirmations: 0,
        });
    }

    /// Checks, if it is time to. Returns whether a process must be killed.
    pub(crate) fn should_kill(&mut self, now: Instant) -> bool {
        let Some(suspicion) = self.suspicion.filter(|s| now >= s.check_at) else {
            return false;
        };

        let (refaults, file_bytes) = self.read_counters();
        if refaults - suspicion.refaults.min(refaults) < STALL_REFAULTS
            || file_bytes > STALL_FILE_BYTES
        {
            self.suspicion = None;
            return false;
        }

        // If the kernel has just killed a process, its memory is still being freed: earlier checks are no reason to kill
        // another one.
        let kills = self.rearm();
        let confirmations = if kills == suspicion.kills {
            suspicion.confirmations + 1
        } else {
            0
        };

        let is_certain = confirmations >= REQUIRED_CONFIRMATIONS;
        self.suspicion = Some(StallSuspicion {
            check_at: now + CHECK_INTERVAL,
            refaults,
            kills,
            confirmations: if is_certain { 0 } else { confirmations },
        });

        is_certain
    }

    /// Returns the refaults so far, in pages, and the current file pages, in bytes.
    fn read_counters(&self) -> (u64, u64) {
        let mut buffer = [0; 4096];
        let text = read(self.directory.as_fd(), "memory.stat", &mut buffer);
        let figure = |name| field(text, name).unwrap_or(0);
        (
            figure("workingset_refault_file"),
            figure("active_file") + figure("inactive_file"),
        )
    }

    /// Reads the events file, so that the kernel marks it again. Returns the number of kills by the kernel.
    fn rearm(&self) -> u64 {
        let mut buffer = [0; 256];
        let read = rustix::io::pread(&self.events, &mut buffer, 0).unwrap_or(0);
        let text = str::from_utf8(&buffer[..read]).unwrap_or_default();
        field(text, "oom_kill").unwrap_or(0)
    }
}

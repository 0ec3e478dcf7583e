use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroups, field, open_file, read};

/// Notices when programs have filled their memory and nothing gets on any more.
///
/// The kernel kills a program only when it finds nothing to drop. Programs' own code can always be
/// dropped, and has to be read again at once: measured in a guest of 256 MiB, a program that asks
/// for memory in small pieces went on like that for as long as it was let. A page that is read
/// again soon after it was dropped is a refault; thousands of them each second, with next to
/// nothing left to drop, are the sign.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    directory: OwnedFd,
    /// The kernel marks it whenever the limit was met.
    events: OwnedFd,
    suspicion: Option<Suspicion>,
}

#[derive(Debug, Clone, Copy)]
struct Suspicion {
    look_at: Instant,
    refaults: u64,
    /// Kills of the kernel's own so far.
    kills: u64,
    confirmed: u32,
}

/// How often to look while there is a suspicion.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So many looks in a row must confirm it.
const CONFIRMATIONS: u32 = 2;
/// Refaults between two looks that confirm it, in pages. Measured when nothing got on: 5,000.
const REFAULTS: u64 = 500;
/// File pages that programs keep at least while they get on, in bytes. Measured when nothing got
/// on: under 1 MiB; right before: 2 MiB and more.
const FILE_BYTES: u64 = 2 * 1024 * 1024;

impl MemoryWatch {
    /// Watches over all cgroups in `cgroups` together.
    ///
    /// # Errors
    /// What the kernel says.
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

    /// What to wait for, as an exceptional condition, while there is no suspicion.
    pub(crate) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.suspicion.is_none().then(|| self.events.as_fd())
    }

    /// When to look again, while there is one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.suspicion.map(|suspicion| suspicion.look_at)
    }

    /// The limit was met.
    pub(crate) fn met(&mut self, now: Instant) {
        let kills = self.rearm();
        let (refaults, _) = self.count();
        self.suspicion = Some(Suspicion {
            look_at: now + LOOK_EVERY,
            refaults,
            kills,
            confirmed: 0,
        });
    }

    /// Looks, if it is time to. True: something must be killed.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        let Some(suspicion) = self.suspicion.filter(|s| now >= s.look_at) else {
            return false;
        };
        let (refaults, file_bytes) = self.count();
        if refaults - suspicion.refaults.min(refaults) < REFAULTS || file_bytes > FILE_BYTES {
            self.suspicion = None;
            return false;
        }
        // Where the kernel has just killed one, its memory is still on its way back: nothing that
        // was seen before is a reason to kill another.
        let kills = self.rearm();
        let confirmed = if kills == suspicion.kills {
            suspicion.confirmed + 1
        } else {
            0
        };
        let certain = confirmed >= CONFIRMATIONS;
        self.suspicion = Some(Suspicion {
            look_at: now + LOOK_EVERY,
            refaults,
            kills,
            confirmed: if certain { 0 } else { confirmed },
        });
        certain
    }

    /// Refaults so far, in pages, and file pages held, in bytes.
    fn count(&self) -> (u64, u64) {
        let mut buffer = [0; 4096];
        let text = read(self.directory.as_fd(), "memory.stat", &mut buffer);
        let figure = |name| field(text, name).unwrap_or(0);
        (
            figure("workingset_refault_file"),
            figure("active_file") + figure("inactive_file"),
        )
    }

    /// Reading the file is what makes the kernel mark it anew. Returns how many it has killed.
    fn rearm(&self) -> u64 {
        let mut buffer = [0; 256];
        let read = rustix::io::pread(&self.events, &mut buffer, 0).unwrap_or(0);
        let text = str::from_utf8(&buffer[..read]).unwrap_or_default();
        field(text, "oom_kill").unwrap_or(0)
    }
}

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind};

/// What a VM's QEMU needs beside the guest's memory, in MiB: its own and 128 MiB of translated code.
const OVERHEAD_MIB: u32 = 160;

/// Of the memory that was available at the start, the share that VMs may take together.
const SHARE_PERCENT: u64 = 80;

/// Who may have a VM of this engine now. A request waits here, with a deadline, instead of
/// overloading the host.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    memory: Arc<Semaphore>,
    total_mib: u32,
    /// A boot keeps a core busy: more boots than cores at once only make each slower.
    boots: Arc<Semaphore>,
    deadline: Duration,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _memory: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(deadline: Duration) -> Self {
        let available = available_mib().unwrap_or(1024);
        let total_mib = u32::try_from(available * SHARE_PERCENT / 100).unwrap_or(u32::MAX / 2);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            memory: Arc::new(Semaphore::new(total_mib as usize)),
            total_mib,
            boots: Arc::new(Semaphore::new(cores)),
            deadline,
        }
    }

    /// The most memory that a guest may have here, in MiB.
    pub(crate) fn most_mib(&self) -> u32 {
        self.total_mib.saturating_sub(OVERHEAD_MIB)
    }

    /// A place, if there is room now.
    pub(crate) fn place_now(&self, guest_mib: u32) -> Option<Place> {
        let needed = guest_mib.checked_add(OVERHEAD_MIB)?;
        let memory = self.memory.clone().try_acquire_many_owned(needed).ok()?;
        Some(Place { _memory: memory })
    }

    /// A place for something that must leave half of the room to requests, if that is so now.
    pub(crate) fn spare_place(&self, guest_mib: u32) -> Option<Place> {
        let place = self.place_now(guest_mib)?;
        let left = self.memory.available_permits();
        (left >= self.total_mib as usize / 2).then_some(place)
    }

    /// A turn to do something that keeps a core busy, if no request has it.
    pub(crate) fn turn_now(&self) -> Option<OwnedSemaphorePermit> {
        self.boots.clone().try_acquire_owned().ok()
    }

    /// Waits for room for a guest of this much memory. `shed` is called where there is no room now: it
    /// may give some back.
    ///
    /// # Errors
    /// [`ErrorKind::Host`] when it can never fit, [`ErrorKind::Busy`] after the deadline.
    pub(crate) async fn place(&self, guest_mib: u32, shed: impl FnOnce()) -> Result<Place, Error> {
        let needed = guest_mib.saturating_add(OVERHEAD_MIB);
        if needed > self.total_mib {
            return Err(Error::new(
                ErrorKind::Host,
                format!(
                    "a guest of {guest_mib} MiB needs {needed} MiB on this host; {} MiB may be used; ask for less",
                    self.total_mib
                ),
            ));
        }
        if let Some(place) = self.place_now(guest_mib) {
            return Ok(place);
        }
        shed();
        let memory = self.memory.clone().acquire_many_owned(needed);
        let memory = tokio::time::timeout(self.deadline, memory).await;
        let memory = memory.ok().and_then(Result::ok);
        memory
            .map(|memory| Place { _memory: memory })
            .ok_or_else(|| self.busy())
    }

    /// The same, and a turn to bring it to life.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub(crate) async fn place_and_turn(
        &self,
        guest_mib: u32,
        shed: impl FnOnce(),
    ) -> Result<(Place, OwnedSemaphorePermit), Error> {
        let place = self.place(guest_mib, shed).await?;
        let turn = self.boots.clone().acquire_owned();
        let turn = tokio::time::timeout(self.deadline, turn).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(|| self.busy())?;
        Ok((place, turn))
    }

    fn busy(&self) -> Error {
        let seconds = self.deadline.as_secs();
        Error::new(
            ErrorKind::Busy,
            format!("no room for another VM within {seconds} s; try again later"),
        )
    }
}

/// Memory that this host can give now, in MiB.
pub(crate) fn available_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_that_can_never_fit_is_refused_at_once() {
        let error = Admission::new(Duration::from_secs(60))
            .place_and_turn(u32::MAX / 2, || ())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Host);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline() {
        let admission = Admission::new(Duration::from_secs(5));
        let all = admission
            .place_and_turn(admission.total_mib - OVERHEAD_MIB, || ())
            .await
            .unwrap();
        assert_eq!(
            admission.place_and_turn(1, || ()).await.unwrap_err().kind(),
            ErrorKind::Busy
        );
        drop(all);
        assert!(admission.place_and_turn(1, || ()).await.is_ok());
    }
}

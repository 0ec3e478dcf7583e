use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// What a VM's QEMU needs beside the guest's memory, in MiB: its own and 128 MiB of translated code.
const OVERHEAD_MIB: u32 = 160;

/// Of the memory that was available at the start, the share that VMs may take together.
const SHARE_PERCENT: u64 = 80;

/// Of the memory of this host, the share that must be available for another VM, where pressure is looked at.
const MIN_AVAILABLE_PERCENT: u64 = 5;

/// The share of the last ten seconds, in percent, in which some process waited for memory (`some avg10` of the
/// kernel's pressure stall information), past which no VM is added, where pressure is looked at.
const MAX_PRESSURE: f32 = 40.0;

/// How long a look at this host's memory is good for: it takes 50 µs.
const PRESSURE_CACHE_TIME: Duration = Duration::from_millis(500);

/// Room for VMs on this host, as an engine counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capacity {
    /// Memory that its VMs may take together, in MiB.
    pub total_mib: u32,
    /// The most memory that one guest may have, in MiB.
    pub max_guest_mib: u32,
    /// What is left of the total, in MiB.
    pub free_mib: u32,
    /// Requests that wait for room or for a turn to start a VM.
    pub waiting: usize,
    /// The most that may wait.
    pub queue_length: usize,
}

/// Who may have a VM of this engine now. A request waits here, with a deadline, instead of
/// overloading the host.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    memory: Arc<Semaphore>,
    total_mib: u32,
    /// A boot keeps a core busy: more boots than cores at once only make each slower.
    start_turns: Arc<Semaphore>,
    deadline: Duration,
    waiting: Arc<AtomicUsize>,
    queue_length: usize,
    /// When this host was looked at, and what was wrong then; none: it is not looked at.
    pressure: Option<Arc<Mutex<Option<PressureReading>>>>,
}

type PressureReading = (Instant, Option<String>);

/// Somebody waits.
#[derive(Debug)]
struct QueueTicket(Arc<AtomicUsize>);

impl Drop for QueueTicket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(crate) struct MemoryReservation {
    _memory: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Self {
        let available = available_mib().unwrap_or(1024);
        let total_mib = u32::try_from(available * SHARE_PERCENT / 100).unwrap_or(u32::MAX / 2);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            memory: Arc::new(Semaphore::new(total_mib as usize)),
            total_mib,
            start_turns: Arc::new(Semaphore::new(cores)),
            deadline: config.queue_deadline,
            waiting: Arc::default(),
            queue_length: config.queue_length,
            pressure: config.refuse_under_pressure.then(Arc::default),
        }
    }

    pub(crate) fn capacity(&self) -> Capacity {
        let free = self.memory.available_permits();
        Capacity {
            total_mib: self.total_mib,
            max_guest_mib: self.max_guest_mib(),
            free_mib: u32::try_from(free).unwrap_or(u32::MAX),
            waiting: self.waiting.load(Ordering::Relaxed),
            queue_length: self.queue_length,
        }
    }

    /// A place in the queue.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: it is full.
    fn queue(&self) -> Result<QueueTicket, Error> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let reserve = QueueTicket(self.waiting.clone());
        if waiting < self.queue_length {
            return Ok(reserve);
        }
        let most = self.queue_length;
        let message =
            format!("{most} requests wait for a VM already, the most that may; try again later");
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// Refuses where this host is short of memory, if it is looked at.
    fn check_pressure(&self) -> Result<(), Error> {
        let Some(pressure) = &self.pressure else {
            return Ok(());
        };
        let mut look = pressure.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = look
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() < PRESSURE_CACHE_TIME);
        if !is_fresh {
            *look = Some((Instant::now(), memory_shortage()));
        }
        match look.as_ref().and_then(|(_, wrong)| wrong.as_ref()) {
            None => Ok(()),
            Some(wrong) => {
                let message = format!("no VM is added now: {wrong}; try again later");
                Err(Error::new(ErrorKind::Busy, message))
            }
        }
    }

    /// The most memory that a guest may have here, in MiB.
    pub(crate) fn max_guest_mib(&self) -> u32 {
        self.total_mib.saturating_sub(OVERHEAD_MIB)
    }

    /// A place, if there is room now.
    pub(crate) fn try_reserve(&self, guest_mib: u32) -> Option<MemoryReservation> {
        let needed = guest_mib.checked_add(OVERHEAD_MIB)?;
        let memory = self.memory.clone().try_acquire_many_owned(needed).ok()?;
        Some(MemoryReservation { _memory: memory })
    }

    /// A place for something that must leave half of the room to requests, if that is so now.
    pub(crate) fn try_reserve_spare(&self, guest_mib: u32) -> Option<MemoryReservation> {
        let reserve = self.try_reserve(guest_mib)?;
        let left = self.memory.available_permits();
        (left >= self.total_mib as usize / 2).then_some(reserve)
    }

    /// A turn to do something that keeps a core busy, if no request has it.
    pub(crate) fn try_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.start_turns.clone().try_acquire_owned().ok()
    }

    /// Waits for room for a guest of this much memory. `shed` is called where there is no room now: it
    /// may give some back.
    ///
    /// # Errors
    /// [`ErrorKind::Host`] when it can never fit, [`ErrorKind::Busy`] after the deadline.
    pub(crate) async fn reserve(
        &self,
        guest_mib: u32,
        shed: impl FnOnce(),
    ) -> Result<MemoryReservation, Error> {
        self.check_fits(guest_mib)?;
        let needed = guest_mib.saturating_add(OVERHEAD_MIB);
        self.check_pressure()?;
        if let Some(reserve) = self.try_reserve(guest_mib) {
            return Ok(reserve);
        }
        let _waiting = self.queue()?;
        shed();
        self.with_deadline(self.wait_for_memory(needed)).await
    }

    /// The same, and a turn to bring it to life; both within one deadline.
    ///
    /// # Errors
    /// As [`reserve`](Self::place).
    pub(crate) async fn reserve_with_turn(
        &self,
        guest_mib: u32,
        shed: impl FnOnce(),
    ) -> Result<(MemoryReservation, OwnedSemaphorePermit), Error> {
        self.check_fits(guest_mib)?;
        self.check_pressure()?;
        if let Some(reserve) = self.try_reserve(guest_mib)
            && let Some(turn) = self.try_turn()
        {
            return Ok((reserve, turn));
        }
        let _waiting = self.queue()?;
        let both = async {
            let reserve = match self.try_reserve(guest_mib) {
                Some(reserve) => reserve,
                None => {
                    shed();
                    self.wait_for_memory(guest_mib.saturating_add(OVERHEAD_MIB))
                        .await?
                }
            };
            let turn = self.start_turns.clone().acquire_owned().await;
            Ok((reserve, turn.map_err(|_| self.busy_error())?))
        };
        self.with_deadline(both).await
    }

    /// Refuses what can never fit.
    fn check_fits(&self, guest_mib: u32) -> Result<(), Error> {
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
        Ok(())
    }

    async fn wait_for_memory(&self, needed_mib: u32) -> Result<MemoryReservation, Error> {
        let memory = self.memory.clone().acquire_many_owned(needed_mib).await;
        let memory = memory.map_err(|_| self.busy_error())?;
        Ok(MemoryReservation { _memory: memory })
    }

    async fn with_deadline<T>(
        &self,
        wait_for_memory: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let record_bytes = tokio::time::timeout(self.deadline, wait_for_memory).await;
        record_bytes.unwrap_or_else(|_| Err(self.busy_error()))
    }

    fn busy_error(&self) -> Error {
        let seconds = self.deadline.as_secs();
        Error::new(
            ErrorKind::Busy,
            format!("no room for another VM within {seconds} s; try again later"),
        )
    }
}

/// What is wrong with this host's memory, if something is.
fn memory_shortage() -> Option<String> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let (Some(total), Some(available)) = (mib(&text, "MemTotal:"), mib(&text, "MemAvailable:"))
        && available * 100 < total * MIN_AVAILABLE_PERCENT
    {
        return Some(format!(
            "{available} MiB of this host's {total} are available, less than {MIN_AVAILABLE_PERCENT} %"
        ));
    }
    let text = std::fs::read_to_string("/proc/pressure/memory").ok()?;
    let stalled = pressure(&text)?;
    (stalled > MAX_PRESSURE).then(|| {
        format!("processes of this host waited for memory in {stalled} % of the last 10 s, more than {MAX_PRESSURE} %")
    })
}

/// `some avg10` of pressure stall information.
fn pressure(text: &str) -> Option<f32> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let word = line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("avg10="));
    word?.parse().ok()
}

/// Memory that this host can give now, in MiB.
pub(crate) fn available_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    mib(&text, "MemAvailable:")
}

fn mib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(deadline_s: u64, queue_length: usize) -> Admission {
        Admission::new(&Config {
            queue_deadline: Duration::from_secs(deadline_s),
            queue_length,
            ..Config::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_full_at_its_length_and_refuses_at_once() {
        let admission = admission(5, 1);
        let all = admission
            .reserve(admission.max_guest_mib(), || ())
            .await
            .unwrap();
        let waits = tokio::spawn({
            let admission = admission.clone();
            async move { admission.reserve_with_turn(1, || ()).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert_eq!(admission.capacity().waiting, 1);
        let start = tokio::time::Instant::now();
        let refusal_error = admission.reserve_with_turn(1, || ()).await.unwrap_err();
        assert_eq!(refusal_error.kind(), ErrorKind::Busy);
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(all);
        assert!(waits.await.unwrap());
        let room = admission.capacity();
        assert_eq!((room.waiting, room.free_mib), (0, room.total_mib));
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=41.50 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure(text), Some(41.5));
        assert_eq!(pressure("junk"), None);
    }

    #[tokio::test]
    async fn a_guest_that_can_never_fit_is_refused_at_once() {
        let error = admission(60, 8)
            .reserve_with_turn(u32::MAX / 2, || ())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Host);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline() {
        let admission = admission(5, 8);
        let all = admission
            .reserve_with_turn(admission.total_mib - OVERHEAD_MIB, || ())
            .await
            .unwrap();
        assert_eq!(
            admission
                .reserve_with_turn(1, || ())
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Busy
        );
        drop(all);
        assert!(admission.reserve_with_turn(1, || ()).await.is_ok());
    }
}

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// Memory that the QEMU of a VM needs besides the guest's, in MiB: its own and 128 MiB of translated code.
const OVERHEAD_MIB: u32 = 160;

/// Share of the memory available at the start that all VMs may use together.
const SHARE_PERCENT: u64 = 80;

/// Share of the host's memory that must be available for another VM, if pressure is checked.
const MIN_AVAILABLE_PERCENT: u64 = 5;

/// Share of the last ten seconds, in percent, in which some process waited for memory (`some avg10` of the kernel's
/// pressure stall information). Above it no VM is added, if pressure is checked.
const MAX_PRESSURE: f32 = 40.0;

/// How long a reading of the host's memory is reused: it takes 50 µs.
const PRESSURE_CACHE_TIME: Duration = Duration::from_millis(500);

/// The capacity of an engine for VMs. Returned by [`Engine::capacity`](crate::Engine::capacity).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capacity {
    /// Memory that all VMs may use together, in MiB.
    pub total_mib: u32,
    /// Maximum memory of one guest, in MiB.
    pub max_guest_mib: u32,
    /// Memory that is not reserved, in MiB.
    pub free_mib: u32,
    /// Number of requests that wait for memory, or for a turn to start a VM.
    pub waiting: usize,
    /// Maximum number of waiting requests.
    pub queue_length: usize,
}

/// Decides when a request may have a VM. Requests wait here, with a deadline, instead of overloading the host.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    memory: Arc<Semaphore>,
    total_mib: u32,
    /// A boot keeps a core busy: more boots than cores at once would only slow each other down.
    start_turns: Arc<Semaphore>,
    deadline: Duration,
    waiting: Arc<AtomicUsize>,
    queue_length: usize,
    /// The last reading of the host's memory; none if pressure is not checked.
    pressure: Option<Arc<Mutex<Option<PressureReading>>>>,
}

/// When the host's memory was read, and why it was short.
type PressureReading = (Instant, Option<String>);

/// A place in the queue of waiting requests.
#[derive(Debug)]
struct QueueTicket(Arc<AtomicUsize>);

impl Drop for QueueTicket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory that is reserved for a VM. Dropping it frees the memory.
#[derive(Debug)]
pub(crate) struct MemoryReservation {
    _permit: OwnedSemaphorePermit,
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

    /// Enters the queue.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Busy`] if it is full.
    fn queue(&self) -> Result<QueueTicket, Error> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let ticket = QueueTicket(self.waiting.clone());

        if waiting < self.queue_length {
            return Ok(ticket);
        }

        let max = self.queue_length;
        let message = format!("{max} requests are waiting for a VM, the maximum; try again later");
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// Rejects a request while the host is short of memory, if pressure is checked.
    fn check_pressure(&self) -> Result<(), Error> {
        let Some(pressure) = &self.pressure else {
            return Ok(());
        };

        let mut reading = pressure.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = reading
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() < PRESSURE_CACHE_TIME);

        if !is_current {
            *reading = Some((Instant::now(), memory_shortage()));
        }

        match reading.as_ref().and_then(|(_, shortage)| shortage.as_ref()) {
            None => Ok(()),
            Some(shortage) => {
                let message = format!("cannot start another VM now: {shortage}; try again later");
                Err(Error::new(ErrorKind::Busy, message))
            }
        }
    }

    /// Returns the maximum memory of a guest on this host, in MiB.
    pub(crate) fn max_guest_mib(&self) -> u32 {
        self.total_mib.saturating_sub(OVERHEAD_MIB)
    }

    /// Reserves memory if it is free now.
    pub(crate) fn try_reserve(&self, guest_mib: u32) -> Option<MemoryReservation> {
        let needed = guest_mib.checked_add(OVERHEAD_MIB)?;
        let permit = self.memory.clone().try_acquire_many_owned(needed).ok()?;
        Some(MemoryReservation { _permit: permit })
    }

    /// Reserves memory for the pool if half of the total then remains for requests.
    pub(crate) fn try_reserve_spare(&self, guest_mib: u32) -> Option<MemoryReservation> {
        let reservation = self.try_reserve(guest_mib)?;
        let left = self.memory.available_permits();
        (left >= self.total_mib as usize / 2).then_some(reservation)
    }

    /// Takes a turn for work that keeps a core busy, if one is free now.
    pub(crate) fn try_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.start_turns.clone().try_acquire_owned().ok()
    }

    /// Reserves memory for a guest, and waits for it if necessary. `shed` is called before waiting, and may free some.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] if the guest can never fit, and [`ErrorKind::Busy`] after the deadline.
    pub(crate) async fn reserve(
        &self,
        guest_mib: u32,
        shed: impl FnOnce(),
    ) -> Result<MemoryReservation, Error> {
        self.check_fits(guest_mib)?;
        self.check_pressure()?;

        if let Some(reservation) = self.try_reserve(guest_mib) {
            return Ok(reservation);
        }

        let _ticket = self.queue()?;
        shed();
        let needed = guest_mib.saturating_add(OVERHEAD_MIB);

        self.with_deadline(self.wait_for_memory(needed)).await
    }

    /// Reserves memory for a guest, and takes a turn to start it; both within one deadline.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub(crate) async fn reserve_with_turn(
        &self,
        guest_mib: u32,
        shed: impl FnOnce(),
    ) -> Result<(MemoryReservation, OwnedSemaphorePermit), Error> {
        self.check_fits(guest_mib)?;
        self.check_pressure()?;

        if let Some(reservation) = self.try_reserve(guest_mib)
            && let Some(turn) = self.try_turn()
        {
            return Ok((reservation, turn));
        }

        let _ticket = self.queue()?;
        // Memory may have become free while the queue was entered.
        let both = async {
            let reservation = match self.try_reserve(guest_mib) {
                Some(reservation) => reservation,
                None => {
                    shed();
                    let needed = guest_mib.saturating_add(OVERHEAD_MIB);
                    self.wait_for_memory(needed).await?
                }
            };

            let turn = self.start_turns.clone().acquire_owned().await;
            Ok((reservation, turn.map_err(|_| self.busy_error())?))
        };

        self.with_deadline(both).await
    }

    /// Rejects a guest that can never fit.
    fn check_fits(&self, guest_mib: u32) -> Result<(), Error> {
        let needed = guest_mib.saturating_add(OVERHEAD_MIB);
        if needed <= self.total_mib {
            return Ok(());
        }

        let message = format!(
            "a guest with {guest_mib} MiB needs {needed} MiB of this host; {} MiB may be used; request less memory",
            self.total_mib
        );

        Err(Error::new(ErrorKind::Host, message))
    }

    async fn wait_for_memory(&self, needed_mib: u32) -> Result<MemoryReservation, Error> {
        let permit = self.memory.clone().acquire_many_owned(needed_mib).await;
        let permit = permit.map_err(|_| self.busy_error())?;
        Ok(MemoryReservation { _permit: permit })
    }

    async fn with_deadline<T>(
        &self,
        wait: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let result = tokio::time::timeout(self.deadline, wait).await;
        result.unwrap_or_else(|_| Err(self.busy_error()))
    }

    fn busy_error(&self) -> Error {
        let seconds = self.deadline.as_secs();
        let message = format!("no capacity for another VM within {seconds} s; try again later");
        Error::new(ErrorKind::Busy, message)
    }
}

/// Returns why the host is short of memory, if it is.
fn memory_shortage() -> Option<String> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let (Some(total), Some(available)) = (mib(&text, "MemTotal:"), mib(&text, "MemAvailable:"))
        && available * 100 < total * MIN_AVAILABLE_PERCENT
    {
        return Some(format!(
            "{available} MiB of this host's {total} MiB are available, less than {MIN_AVAILABLE_PERCENT} %"
        ));
    }

    let text = std::fs::read_to_string("/proc/pressure/memory").ok()?;
    let stalled = pressure(&text)?;

    (stalled > MAX_PRESSURE).then(|| {
        format!(
            "processes of this host waited for memory in {stalled} % of the last 10 s, more than {MAX_PRESSURE} %"
        )
    })
}

/// Parses `some avg10` of pressure stall information.
fn pressure(text: &str) -> Option<f32> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let word = line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("avg10="));
    word?.parse().ok()
}

/// Returns the host's available memory, in MiB.
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
    async fn a_full_queue_rejects_at_once() {
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
        let capacity = admission.capacity();
        assert_eq!(
            (capacity.waiting, capacity.free_mib),
            (0, capacity.total_mib)
        );
    }

    #[test]
    fn pressure_is_parsed() {
        let text = "some avg10=41.50 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure(text), Some(41.5));
        assert_eq!(pressure("junk"), None);
    }

    #[tokio::test]
    async fn a_guest_that_can_never_fit_is_rejected_at_once() {
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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{MappedMutexGuard, MutexGuard as AsyncGuard, Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::instance::Vm;
use crate::agent::{Channel, ChannelError};
use crate::error::{Error, ErrorKind, printable};
use crate::host::Isolation;

/// Why a sandbox has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxEnd {
    /// Its owner ended it.
    Requested,
    /// It had no requests and no followed programs for this long.
    Idle(Duration),
    /// It reached its maximum lifetime.
    Lifetime(Duration),
    /// Its owner paused it: its state is on disk, with this id.
    Paused(String),
    /// Its VM was lost or violated the protocol; the value is a diagnosis.
    Lost(String),
}

impl std::fmt::Display for SandboxEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Requested => write!(f, "it was ended by its owner"),
            Self::Idle(time) => write!(f, "it was idle for {time:?} (its idle timeout)"),
            Self::Lifetime(time) => write!(f, "it existed for {time:?} (its maximum lifetime)"),
            Self::Paused(id) => write!(f, "it was paused; resume it from the saved state {id}"),
            Self::Lost(diagnosis) => write!(f, "its VM was lost: {diagnosis}"),
        }
    }
}

/// The VM of a sandbox, and the timeouts that end it.
#[derive(Debug)]
pub(crate) struct SandboxLifetime {
    pub(crate) isolation: Isolation,
    vm: tokio::sync::Mutex<Option<Vm>>,
    clock: Mutex<IdleClock>,
    changed: Notify,
    ended: watch::Sender<Option<SandboxEnd>>,
}

#[derive(Debug)]
struct IdleClock {
    started: Instant,
    /// Number of operations that a caller follows.
    active: usize,
    idle_since: Instant,
    idle_timeout: Option<Duration>,
    max_lifetime: Option<Duration>,
}

/// Whether a sandbox is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activity {
    /// Operations in progress: programs that a caller follows, and requests.
    pub operations: usize,
    /// Connections to exposed ports that are open.
    pub inbound_connections: usize,
    /// The time since the last operation ended; since the start, if there was none.
    pub idle_for: Duration,
}

/// How long to wait for the reason of an end that has occurred.
const REASON_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps a sandbox from being idle while it exists.
#[derive(Debug)]
pub(crate) struct ActivityGuard(Arc<SandboxLifetime>);

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        let mut clock = self.0.clock();
        clock.active -= 1;
        clock.idle_since = Instant::now();
        drop(clock);
        self.0.changed.notify_one();
    }
}

impl SandboxLifetime {
    pub(crate) fn new(
        vm: Vm,
        idle_timeout: Option<Duration>,
        max_lifetime: Option<Duration>,
    ) -> Self {
        let now = Instant::now();
        Self {
            isolation: vm.isolation(),
            vm: tokio::sync::Mutex::new(Some(vm)),
            clock: Mutex::new(IdleClock {
                started: now,
                active: 0,
                idle_since: now,
                idle_timeout,
                max_lifetime,
            }),
            changed: Notify::new(),
            ended: watch::Sender::new(None),
        }
    }

    fn clock(&self) -> MutexGuard<'_, IdleClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether operations are in progress.
    pub(crate) fn activity(&self) -> Activity {
        let clock = self.clock();
        Activity {
            operations: clock.active,
            inbound_connections: 0,
            idle_for: clock.idle_since.elapsed(),
        }
    }

    /// Keeps the sandbox from being idle.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Lost`] with the reason if the sandbox has ended.
    pub(crate) fn mark_active(self: &Arc<Self>) -> Result<ActivityGuard, Error> {
        if let Some(end) = self.ended() {
            return Err(ended_error(&end));
        }
        self.clock().active += 1;
        Ok(ActivityGuard(self.clone()))
    }

    /// Locks the VM, so that it does not end meanwhile.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Lost`] with the reason if the sandbox has ended.
    pub(crate) async fn vm(&self) -> Result<MappedMutexGuard<'_, Vm>, Error> {
        let guard = self.vm.lock().await;
        AsyncGuard::try_map(guard, Option::as_mut).map_err(|_| {
            let end = self.ended().unwrap_or(SandboxEnd::Requested);
            ended_error(&end)
        })
    }

    /// Returns why the sandbox has ended, if it has.
    pub(crate) fn ended(&self) -> Option<SandboxEnd> {
        self.ended.borrow().clone()
    }

    /// Waits until the sandbox has ended; returns why.
    pub(crate) async fn wait_until_ended(&self) -> SandboxEnd {
        let mut ended = self.ended.subscribe();
        let end = ended.wait_for(Option::is_some).await;
        end.ok()
            .and_then(|end| end.clone())
            .unwrap_or(SandboxEnd::Requested)
    }

    /// Returns the reason of an end that has occurred, as a sentence.
    pub(crate) async fn end_reason(&self) -> String {
        match timeout(REASON_TIMEOUT, self.wait_until_ended()).await {
            Ok(end) => format!("the sandbox ended: {end}"),
            Err(_) => "the sandbox's VM has ended".to_string(),
        }
    }

    pub(crate) fn set_idle_timeout(&self, time: Option<Duration>) {
        self.clock().idle_timeout = time;
        self.changed.notify_one();
    }

    pub(crate) fn set_max_lifetime(&self, time: Option<Duration>) {
        self.clock().max_lifetime = time;
        self.changed.notify_one();
    }

    /// Ends the VM; returns how long that took. The first reason is kept.
    pub(crate) async fn end(&self, reason: SandboxEnd) -> Duration {
        let vm = self.vm.lock().await.take();
        self.set_ended(reason);
        match vm {
            Some(vm) => vm.end().await,
            None => Duration::ZERO,
        }
    }

    fn set_ended(&self, reason: SandboxEnd) {
        self.ended.send_if_modified(|end| {
            let is_first = end.is_none();
            end.get_or_insert(reason);
            is_first
        });
    }

    /// Ends the VM from a destructor, which cannot wait.
    pub(crate) fn abandon(&self) {
        self.ended.send_if_modified(|end| {
            end.get_or_insert(SandboxEnd::Requested);
            true
        });

        // A holder of the lock drops the VM itself when it is done.
        if let Ok(mut vm) = self.vm.try_lock() {
            vm.take();
        }
    }

    /// Returns when the sandbox ends because of a timeout, and the reason.
    fn next_timeout(&self) -> Option<(Instant, SandboxEnd)> {
        let clock = self.clock();
        let idle = clock.idle_timeout.filter(|_| clock.active == 0);
        let idle = idle.map(|time| (clock.idle_since + time, SandboxEnd::Idle(time)));
        let lifetime = clock
            .max_lifetime
            .map(|time| (clock.started + time, SandboxEnd::Lifetime(time)));

        idle.into_iter().chain(lifetime).min_by_key(|(at, _)| *at)
    }

    /// Ends the VM when a timeout expires, and records why it was lost if the connection ends.
    pub(crate) async fn supervise(self: Arc<Self>, channel: Arc<Channel>) {
        loop {
            // Compute the timeout again after each change.
            let next = self.next_timeout();
            let expired = async {
                match &next {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };

            tokio::select! {
                () = expired => {
                    // A request may have arrived, or a timeout may have been changed, just now.
                    let reached = self.next_timeout().filter(|(at, _)| *at <= Instant::now());
                    if let Some((_, reason)) = reached {
                        self.end(reason).await;
                        return;
                    }
                }
                () = self.changed.notified() => {}
                error = channel.closed() => {
                    self.record_loss(&error).await;
                    return;
                }
            }
        }
    }

    async fn record_loss(&self, error: &ChannelError) {
        let vm = self.vm.lock().await.take();
        let diagnosis = match (vm, error) {
            (Some(vm), ChannelError::Violation(what)) => {
                let diagnosis = vm.diagnose().await;
                format!("the guest violated the protocol: {what}; {diagnosis}")
            }
            (Some(vm), _) => vm.diagnose().await,
            (None, error) => error.to_string(),
        };

        self.set_ended(SandboxEnd::Lost(printable(&diagnosis)));
    }
}

fn ended_error(end: &SandboxEnd) -> Error {
    let message = match end {
        SandboxEnd::Paused(_) => format!("the sandbox has ended: {end}"),
        _ => format!("the sandbox has ended: {end}; start another one"),
    };
    Error::new(ErrorKind::Lost, message)
}

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{MappedMutexGuard, MutexGuard as AsyncGuard, Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::instance::Vm;
use crate::agent::{Channel, ChannelError};
use crate::error::{Error, ErrorKind, printable};
use crate::host::Isolation;

/// Why a sandbox is there no more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxEnd {
    /// Its owner ended it.
    Requested,
    /// Nothing was asked of it, and nothing in it was followed, for this long.
    Idle(Duration),
    /// It had been there for as long as it might.
    Lifetime(Duration),
    /// Its VM went away, or broke the protocol: with what is known of that.
    Lost(String),
}

impl std::fmt::Display for SandboxEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Requested => write!(f, "it was ended by its owner"),
            Self::Idle(time) => write!(f, "it was idle for {time:?} (its idle timeout)"),
            Self::Lifetime(time) => write!(f, "it had lived for {time:?} (its maximum lifetime)"),
            Self::Lost(known) => write!(f, "its VM was lost: {known}"),
        }
    }
}

/// A VM that is kept, and what ends it.
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
    began: Instant,
    /// Operations that somebody follows.
    mark_active: usize,
    idle_since: Instant,
    idle_timeout: Option<Duration>,
    max_lifetime: Option<Duration>,
}

/// How long to wait for the reason of an end that is known to have come.
const REASON: Duration = Duration::from_secs(5);

/// Something of a sandbox is being used, and it is not idle.
#[derive(Debug)]
pub(crate) struct ActivityGuard(Arc<SandboxLifetime>);

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        let mut clock = self.0.clock();
        clock.mark_active -= 1;
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
                began: now,
                mark_active: 0,
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

    /// Keeps the sandbox from being idle; refuses where it has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`], with the reason.
    pub(crate) fn mark_active(self: &Arc<Self>) -> Result<ActivityGuard, Error> {
        if let Some(end) = self.ended() {
            return Err(gone(&end));
        }
        self.clock().mark_active += 1;
        Ok(ActivityGuard(self.clone()))
    }

    /// The VM, held against its end.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`], with the reason.
    pub(crate) async fn vm(&self) -> Result<MappedMutexGuard<'_, Vm>, Error> {
        let guard = self.vm.lock().await;
        AsyncGuard::try_map(guard, Option::as_mut).map_err(|_| {
            let end = self.ended().unwrap_or(SandboxEnd::Requested);
            gone(&end)
        })
    }

    /// Why it has ended, if it has.
    pub(crate) fn ended(&self) -> Option<SandboxEnd> {
        self.ended.borrow().clone()
    }

    /// Waits for its end.
    pub(crate) async fn wait_until_ended(&self) -> SandboxEnd {
        let mut ended = self.ended.subscribe();
        let found = ended.wait_for(Option::is_some).await;
        found
            .ok()
            .and_then(|end| end.clone())
            .unwrap_or(SandboxEnd::Requested)
    }

    /// What is known of an end that is known to have come.
    pub(crate) async fn end_reason(&self) -> String {
        match timeout(REASON, self.wait_until_ended()).await {
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

    /// Ends the VM, for this reason if there was none before; returns how long that took.
    pub(crate) async fn end(&self, end_reason: SandboxEnd) -> Duration {
        let vm = self.vm.lock().await.take();
        self.ended.send_if_modified(|end| {
            let is_first = end.is_none();
            end.get_or_insert(end_reason);
            is_first
        });
        match vm {
            Some(vm) => vm.end().await,
            None => Duration::ZERO,
        }
    }

    /// Ends it now, where nobody can wait.
    pub(crate) fn abandon(&self) {
        self.ended.send_if_modified(|end| {
            end.get_or_insert(SandboxEnd::Requested);
            true
        });
        if let Ok(mut vm) = self.vm.try_lock() {
            vm.take();
        }
    }

    /// When it ends by itself at the latest, and why.
    fn due(&self) -> Option<(Instant, SandboxEnd)> {
        let clock = self.clock();
        let idle = clock.idle_timeout.filter(|_| clock.mark_active == 0);
        let idle = idle.map(|time| (clock.idle_since + time, SandboxEnd::Idle(time)));
        let lifetime = clock.max_lifetime;
        let lifetime = lifetime.map(|time| (clock.began + time, SandboxEnd::Lifetime(time)));
        idle.into_iter().chain(lifetime).min_by_key(|(at, _)| *at)
    }

    /// Ends the VM when its time has come, and learns why it went away by itself.
    pub(crate) async fn supervise(self: Arc<Self>, channel: Arc<Channel>) {
        loop {
            let due = self.due();
            let time_is_up = async {
                match &due {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time_is_up => {
                    // Somebody may have begun something, or have asked for more time, just now.
                    if let Some((_, end_reason)) = self.due().filter(|(at, _)| *at <= Instant::now()) {
                        self.end(end_reason).await;
                        return;
                    }
                }
                () = self.changed.notified() => {}
                error = channel.closed() => {
                    self.lost(&error).await;
                    return;
                }
            }
        }
    }

    async fn lost(&self, error: &ChannelError) {
        let vm = self.vm.lock().await.take();
        let known = match vm {
            Some(vm) => {
                let known = vm.diagnose().await;
                match error {
                    ChannelError::Violation(what) => {
                        format!("the guest broke the protocol: {what}; {known}")
                    }
                    _ => known,
                }
            }
            None => error.to_string(),
        };
        let lost = SandboxEnd::Lost(printable(&known));
        self.ended.send_if_modified(|end| {
            let is_first = end.is_none();
            end.get_or_insert(lost);
            is_first
        });
    }
}

fn gone(end: &SandboxEnd) -> Error {
    let message = format!("the sandbox has ended: {end}; begin another one");
    Error::new(ErrorKind::Lost, message)
}

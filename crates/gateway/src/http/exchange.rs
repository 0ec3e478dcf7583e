//! One request with its answer, from the head's end until the last byte, and what is told of it then.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::idle_timer::Pulse;
use crate::policy::RuleId;

/// A request that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its method.
    pub(crate) method: String,
    /// Its host, or nothing if it named none that can be read.
    pub(crate) host: String,
    /// The status that the guest was sent, if it was sent one.
    pub(crate) status: Option<u16>,
    /// The code of the refusal, if it was refused.
    pub(crate) refused: Option<&'static str>,
    /// The rule that allowed it.
    pub(crate) rule: Option<RuleId>,
    /// Whether its server gave no answer.
    pub(crate) lost: bool,
    /// Bytes of bodies from the guest, and from it after an upgrade.
    pub(crate) up: u64,
    /// Bytes of bodies to the guest, and to it after an upgrade.
    pub(crate) down: u64,
}

/// Is told of requests.
pub(crate) trait Watch: Send + Sync {
    /// A request is over: answered, refused or broken off.
    fn over(&self, event: Event);
}

/// What is known of a request as it goes on. Told when the last who has a part in it is done.
pub(super) struct Exchange {
    method: String,
    host: String,
    status: AtomicU16,
    refused: OnceLock<&'static str>,
    rule: OnceLock<RuleId>,
    lost: AtomicBool,
    up: AtomicU64,
    down: AtomicU64,
    pulse: Arc<Pulse>,
    watch: Arc<dyn Watch>,
}

impl Exchange {
    pub(super) fn begin(
        method: &str,
        host: &str,
        pulse: &Arc<Pulse>,
        watch: &Arc<dyn Watch>,
    ) -> Arc<Self> {
        pulse.busy();
        Arc::new(Self {
            method: method.to_owned(),
            host: host.to_owned(),
            status: AtomicU16::new(0),
            refused: OnceLock::new(),
            rule: OnceLock::new(),
            lost: AtomicBool::new(false),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            pulse: Arc::clone(pulse),
            watch: Arc::clone(watch),
        })
    }

    pub(super) fn refused(&self, reason: &'static str) {
        let _ = self.refused.set(reason);
    }

    pub(super) fn allowed(&self, rule: Option<RuleId>) {
        if let Some(rule) = rule {
            let _ = self.rule.set(rule);
        }
    }

    pub(super) fn lost(&self) {
        self.lost.store(true, Relaxed);
    }

    pub(super) fn status(&self, status: u16) {
        self.status.store(status, Relaxed);
    }

    pub(super) fn up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Relaxed);
        self.pulse.beat();
    }

    pub(super) fn down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Relaxed);
        self.pulse.beat();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.pulse.idle();
        let status = self.status.load(Relaxed);
        self.watch.over(Event {
            method: std::mem::take(&mut self.method),
            host: std::mem::take(&mut self.host),
            status: (status != 0).then_some(status),
            refused: self.refused.get().copied(),
            rule: self.rule.take(),
            lost: self.lost.load(Relaxed),
            up: self.up.load(Relaxed),
            down: self.down.load(Relaxed),
        });
    }
}

//! One request and its answer, from the end of the request's head to the last byte.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::idle_timer::IdleTimer;
use crate::policy::RuleId;

/// A finished request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestRecord {
    /// The method.
    pub(crate) method: String,
    /// The host; empty if the request named none that can be read.
    pub(crate) host: String,
    /// The status that the guest received, if it received one.
    pub(crate) status: Option<u16>,
    /// The code of the refusal, if the request was refused.
    pub(crate) refused: Option<&'static str>,
    /// The rule that allowed it.
    pub(crate) rule: Option<RuleId>,
    /// Whether the server did not answer.
    pub(crate) unanswered: bool,
    /// Body bytes from the guest, and all bytes from it after an upgrade.
    pub(crate) bytes_up: u64,
    /// Body bytes to the guest, and all bytes to it after an upgrade.
    pub(crate) bytes_down: u64,
}

/// Receives finished requests.
pub(crate) trait RequestObserver: Send + Sync {
    /// A request was answered, refused or broken off.
    fn finished(&self, request: RequestRecord);
}

/// A request in progress. Bodies and splices share it; the observer receives the record when the last of them is
/// dropped.
pub(super) struct Exchange {
    method: String,
    host: String,
    status: AtomicU16,
    refused: OnceLock<&'static str>,
    rule: OnceLock<RuleId>,
    unanswered: AtomicBool,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    timer: Arc<IdleTimer>,
    observer: Arc<dyn RequestObserver>,
}

impl Exchange {
    pub(super) fn start(
        method: &str,
        host: &str,
        timer: &Arc<IdleTimer>,
        observer: &Arc<dyn RequestObserver>,
    ) -> Arc<Self> {
        timer.request_started();
        Arc::new(Self {
            method: method.to_owned(),
            host: host.to_owned(),
            status: AtomicU16::new(0),
            refused: OnceLock::new(),
            rule: OnceLock::new(),
            unanswered: AtomicBool::new(false),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            timer: Arc::clone(timer),
            observer: Arc::clone(observer),
        })
    }

    pub(super) fn set_refused(&self, code: &'static str) {
        let _ = self.refused.set(code);
    }

    pub(super) fn set_rule(&self, rule: Option<RuleId>) {
        if let Some(rule) = rule {
            let _ = self.rule.set(rule);
        }
    }

    pub(super) fn set_unanswered(&self) {
        self.unanswered.store(true, Relaxed);
    }

    pub(super) fn set_status(&self, status: u16) {
        self.status.store(status, Relaxed);
    }

    pub(super) fn add_bytes_up(&self, bytes: usize) {
        self.bytes_up.fetch_add(bytes as u64, Relaxed);
        self.timer.record_activity();
    }

    pub(super) fn add_bytes_down(&self, bytes: usize) {
        self.bytes_down.fetch_add(bytes as u64, Relaxed);
        self.timer.record_activity();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.timer.request_finished();
        let status = self.status.load(Relaxed);
        self.observer.finished(RequestRecord {
            method: std::mem::take(&mut self.method),
            host: std::mem::take(&mut self.host),
            status: (status != 0).then_some(status),
            refused: self.refused.get().copied(),
            rule: self.rule.take(),
            unanswered: self.unanswered.load(Relaxed),
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
        });
    }
}

//! The server's metrics, in the OpenMetrics text format.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::responses::RunResponse;
use crate::api::sandbox_responses::SandboxResponse;
use crate::owner::Owner;
use crate::sync::lock;

/// The bounds of the histogram of request times, in seconds.
const REQUEST_SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// The bounds of the histograms of pauses and resumes, in seconds.
const PAUSE_SECONDS: [f64; 10] = [0.03, 0.06, 0.12, 0.25, 0.4, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A change of a sandbox that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PauseStep {
    Pause,
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLabel {
    by: String,
}

/// The metrics of all callers together, and those of each key: a key sees only its own.
#[derive(Debug, Default)]
pub(crate) struct MetricsByOwner {
    all: Metrics,
    by_key: Mutex<HashMap<Owner, Arc<Metrics>>>,
}

impl MetricsByOwner {
    /// Returns the metrics of all callers.
    pub(crate) fn all(&self) -> &Metrics {
        &self.all
    }

    /// Returns the metrics of one key.
    pub(crate) fn of(&self, key: &Owner) -> Arc<Metrics> {
        lock(&self.by_key).entry(key.clone()).or_default().clone()
    }

    /// Removes the metrics of a key that was revoked.
    pub(crate) fn remove(&self, key: &Owner) {
        lock(&self.by_key).remove(key);
    }

    fn record(&self, owner: Option<&Owner>, record: impl Fn(&Metrics)) {
        record(&self.all);
        if let Some(key) = owner.filter(|owner| !owner.is_local()) {
            record(&self.of(key));
        }
    }

    /// Counts a request that was answered, also one without a key. `took` is the time until the response headers.
    pub(crate) fn record_request(
        &self,
        owner: Option<&Owner>,
        method: &str,
        route: &str,
        status: u16,
        took: Duration,
    ) {
        self.record(owner, |metrics| {
            metrics.record_request(method, route, status, took);
        });
    }

    /// Counts a run that has ended.
    pub(crate) fn record_run_end(&self, owner: &Owner, run: &RunResponse) {
        self.record(Some(owner), |metrics| metrics.record_run_end(run));
    }

    /// Counts a pause or a resume, and how long it took.
    pub(crate) fn record_pause(&self, owner: &Owner, step: PauseStep, is_ok: bool, took: Duration) {
        self.record(Some(owner), |metrics| {
            metrics.record_pause(step, is_ok, took)
        });
    }

    /// Counts a sandbox that has ended.
    pub(crate) fn record_sandbox_end(&self, owner: &Owner, sandbox: &SandboxResponse) {
        self.record(Some(owner), |metrics| metrics.record_sandbox_end(sandbox));
    }
}

/// Counters, and gauges that are set when the metrics are read.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    runs_ended: Family<ByLabel, Counter>,
    sandboxes_ended: Family<ByLabel, Counter>,
    pauses: Family<ByLabel, Counter>,
    pause_seconds: Histogram,
    resume_seconds: Histogram,
    vms: Family<ByLabel, Gauge>,
    now: Family<ByLabel, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("fumehood");
        let requests = Family::default();
        let request_seconds = Histogram::new(REQUEST_SECONDS);
        let runs_ended = Family::default();
        let sandboxes_ended = Family::default();
        let pauses = Family::default();
        let pause_seconds = Histogram::new(PAUSE_SECONDS);
        let resume_seconds = Histogram::new(PAUSE_SECONDS);
        let vms = Family::default();
        let now = Family::default();

        registry.register("requests", "Requests answered", requests.clone());
        registry.register(
            "request_seconds",
            "Time until the response headers, in seconds",
            request_seconds.clone(),
        );
        registry.register("runs_ended", "Runs ended, by reason", runs_ended.clone());
        registry.register(
            "sandboxes_ended",
            "Sandboxes ended, by reason",
            sandboxes_ended.clone(),
        );
        registry.register(
            "pauses",
            "Pauses and resumes of sandboxes, and those that failed",
            pauses.clone(),
        );
        registry.register(
            "pause_seconds",
            "Time to pause a sandbox, in seconds",
            pause_seconds.clone(),
        );
        registry.register(
            "resume_seconds",
            "Time to resume a sandbox, in seconds",
            resume_seconds.clone(),
        );
        registry.register("vms", "VMs since the start, by origin", vms.clone());
        registry.register("now", "Current values, by name", now.clone());

        Self {
            registry,
            requests,
            request_seconds,
            runs_ended,
            sandboxes_ended,
            pauses,
            pause_seconds,
            resume_seconds,
            vms,
            now,
        }
    }
}

impl Metrics {
    fn record_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels {
            method: method.to_owned(),
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    fn record_run_end(&self, run: &RunResponse) {
        let error = run.error.as_ref();
        let by = error
            .map(|error| format!("failed_{}", error.kind.as_str()))
            .or_else(|| Some(run.outcome.as_ref()?.ended_by().to_owned()));
        count_end(&self.runs_ended, by);
    }

    fn record_sandbox_end(&self, sandbox: &SandboxResponse) {
        count_end(&self.sandboxes_ended, sandbox.ended.clone());
    }

    fn record_pause(&self, step: PauseStep, is_ok: bool, took: Duration) {
        let (by, seconds) = match (step, is_ok) {
            (PauseStep::Pause, true) => ("pause", Some(&self.pause_seconds)),
            (PauseStep::Pause, false) => ("failed_pause", None),
            (PauseStep::Resume, true) => ("resume", Some(&self.resume_seconds)),
            (PauseStep::Resume, false) => ("failed_resume", None),
        };
        count_end(&self.pauses, Some(by.to_owned()));
        if let Some(seconds) = seconds {
            seconds.observe(took.as_secs_f64());
        }
    }

    /// Sets a current value.
    pub(crate) fn set_now(&self, name: &str, value: u64) {
        set(&self.now, name, value);
    }

    /// Sets the number of VMs of one origin since the start.
    pub(crate) fn set_vms(&self, origin: &str, value: u64) {
        set(&self.vms, origin, value);
    }

    /// Returns all metrics as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }
}

fn count_end(family: &Family<ByLabel, Counter>, by: Option<String>) {
    let by = by.unwrap_or_default();
    family.get_or_create(&ByLabel { by }).inc();
}

fn set(family: &Family<ByLabel, Gauge>, by: &str, value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    let by = by.to_owned();
    family.get_or_create(&ByLabel { by }).set(value);
}

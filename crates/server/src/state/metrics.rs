//! The server's metrics, in the OpenMetrics text format.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::responses::{RunResponse, SandboxResponse};

/// The bounds of the histogram of request times, in seconds.
const REQUEST_SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

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

/// Counters, and gauges that are set when the metrics are read.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    runs_ended: Family<ByLabel, Counter>,
    sandboxes_ended: Family<ByLabel, Counter>,
    vms: Family<ByLabel, Gauge>,
    now: Family<ByLabel, Gauge>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("fumehood");
        let requests = Family::default();
        let request_seconds = Histogram::new(REQUEST_SECONDS);
        let runs_ended = Family::default();
        let sandboxes_ended = Family::default();
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
        registry.register("vms", "VMs since the start, by origin", vms.clone());
        registry.register("now", "Current values, by name", now.clone());

        Self {
            registry,
            requests,
            request_seconds,
            runs_ended,
            sandboxes_ended,
            vms,
            now,
        }
    }

    /// Counts a request that was answered. `took` is the time until the response headers.
    pub(crate) fn record_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels {
            method: method.to_owned(),
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// Counts a run that has ended.
    pub(crate) fn record_run_end(&self, run: &RunResponse) {
        let error = run.error.as_ref();
        let by = error
            .map(|error| format!("failed_{}", error.kind.as_str()))
            .or_else(|| Some(run.outcome.as_ref()?.ended_by().to_owned()));
        count_end(&self.runs_ended, by);
    }

    /// Counts a sandbox that has ended.
    pub(crate) fn record_sandbox_end(&self, sandbox: &SandboxResponse) {
        count_end(&self.sandboxes_ended, sandbox.ended.clone());
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

//! What a monitor asks for, in the text form of Prometheus.

use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::service::{Service, lock};
use crate::view::{RunView, SandboxView};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    by: String,
}

/// Counts, and what is measured when somebody asks.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Request, Counter>,
    seconds: Histogram,
    runs: Family<By, Counter>,
    sandboxes: Family<By, Counter>,
    vms: Family<By, Gauge>,
    now: Family<By, Gauge>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("fumehood");
        let bounds = [
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
        ];
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            seconds: Histogram::new(bounds),
            runs: Family::default(),
            sandboxes: Family::default(),
            vms: Family::default(),
            now: Family::default(),
        };
        registry.register("requests", "Answered requests", metrics.requests.clone());
        registry.register(
            "request_seconds",
            "Until an answer's head",
            metrics.seconds.clone(),
        );
        registry.register("runs_ended", "Ended runs, by why", metrics.runs.clone());
        registry.register(
            "sandboxes_ended",
            "Ended sandboxes, by why",
            metrics.sandboxes.clone(),
        );
        registry.register(
            "vms",
            "VMs since the start, by where they came from",
            metrics.vms.clone(),
        );
        registry.register("now", "What is there now", metrics.now.clone());
        *lock(&metrics.registry) = registry;
        metrics
    }

    pub(crate) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let request = Request {
            method: method.to_owned(),
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&request).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn run_ended(&self, view: &RunView) {
        let failed = view
            .error
            .as_ref()
            .map(|error| format!("failed_{}", error.kind));
        let by = failed
            .or_else(|| view.outcome.ended_by.clone())
            .unwrap_or_default();
        self.runs.get_or_create(&By { by }).inc();
    }

    pub(crate) fn sandbox_ended(&self, view: &SandboxView) {
        let by = view.ended.clone().unwrap_or_default();
        self.sandboxes.get_or_create(&By { by }).inc();
    }
}

impl Service {
    /// All metrics, as text.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let metrics = &self.0.metrics;
        let set = |family: &Family<By, Gauge>, by: &str, value: u64| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&By { by: by.into() }).set(value);
        };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        set(
            &metrics.now,
            "runs",
            count(lock(&self.0.jobs).live().count()),
        );
        set(
            &metrics.now,
            "sandboxes",
            count(lock(&self.0.sandboxes).len()),
        );
        if let Ok(engine) = self.engine() {
            let (room, counts, ready) =
                (engine.capacity(), engine.vm_stats(), engine.pool_status());
            set(&metrics.now, "memory_free_mib", room.free_mib.into());
            set(&metrics.now, "memory_total_mib", room.total_mib.into());
            set(&metrics.now, "waiting", count(room.waiting));
            set(&metrics.now, "hot", count(ready.warm));
            set(&metrics.now, "standby", count(ready.standby));
            set(&metrics.vms, "hot", counts.hot);
            set(&metrics.vms, "standby", counts.standby);
            set(&metrics.vms, "template", counts.template);
            set(&metrics.vms, "boot", counts.boot);
            set(&metrics.vms, "checkpoint", counts.checkpoint);
            set(&metrics.vms, "failed_restores", counts.failed_restores);
        }
        let mut text = String::new();
        let encoded = encode(&mut text, &lock(&metrics.registry));
        if let Err(error) = encoded {
            tracing::error!(%error, "metrics could not be written");
        }
        text
    }
}

//! The metrics text.

use super::service::Service;
use crate::owner::{Identity, Owner};
use crate::state::metrics::Metrics;
use crate::sync::lock;

impl Service {
    /// Measures the current values, and returns the metrics that the caller may see in the OpenMetrics text format: all of
    /// them for an operator, those of its own requests, runs and sandboxes for a key.
    pub(crate) fn metrics_text(&self, caller: &Identity) -> String {
        if caller.is_operator {
            let metrics = self.0.metrics.all();
            self.set_counts(metrics, |_| true);
            self.set_memory_figures(metrics);
            self.set_engine_figures(metrics);
            return metrics.text();
        }

        let metrics = self.0.metrics.of(&caller.owner);
        self.set_counts(&metrics, |owner| *owner == caller.owner);
        metrics.text()
    }

    fn set_counts(&self, metrics: &Metrics, is_counted: impl Fn(&Owner) -> bool) {
        let runs = lock(&self.0.runs);
        let active = runs.active().filter(|task| is_counted(task.owner()));
        metrics.set_now("runs", count(active.count()));
        drop(runs);

        let sandboxes = lock(&self.0.sandboxes);
        let counted = || sandboxes.values().filter(|one| is_counted(one.owner()));
        let running = counted().filter(|one| one.has_vm()).count();
        metrics.set_now("sandboxes", count(running));
        metrics.set_now("paused_sandboxes", count(counted().count() - running));

        let saved = counted().filter_map(|one| one.body().saved().map(|saved| saved.bytes));
        metrics.set_now("paused_bytes", saved.sum());
    }

    fn set_memory_figures(&self, metrics: &Metrics) {
        let kept = lock(&self.0.runs).ended_bytes;
        metrics.set_now("kept_output_bytes", count(kept));
        metrics.set_now("transit_bytes", count(self.0.memory.total()));
    }

    fn set_engine_figures(&self, metrics: &Metrics) {
        let Ok(engine) = self.engine() else { return };
        let (capacity, vms, pool) = (engine.capacity(), engine.vm_stats(), engine.pool_status());
        metrics.set_now("memory_free_mib", capacity.free_mib.into());
        metrics.set_now("memory_total_mib", capacity.total_mib.into());
        metrics.set_now("waiting", count(capacity.waiting));
        metrics.set_now("hot", count(pool.warm));
        let images = engine.hot_images();
        metrics.set_now("hot_images", count(images.images));
        metrics.set_now("hot_image_bytes", images.bytes);

        metrics.set_vms("hot", vms.hot);
        metrics.set_vms("hot_image", vms.hot_image);
        metrics.set_vms("template", vms.template);
        metrics.set_vms("boot", vms.boot);
        metrics.set_vms("checkpoint", vms.checkpoint);
        metrics.set_vms("failed_restores", vms.failed_restores);
        metrics.set_vms("failed_continuations", vms.failed_continuations);
        metrics.set_vms("failed_hot_images", vms.failed_hot_images);
    }
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

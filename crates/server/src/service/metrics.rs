//! The metrics text.

use super::service::Service;
use crate::sync::lock;

impl Service {
    /// Measures the current values, and returns all metrics in the OpenMetrics text format.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let metrics = &self.0.metrics;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);

        metrics.set_now("runs", count(lock(&self.0.runs).active().count()));
        metrics.set_now("sandboxes", count(lock(&self.0.sandboxes).len()));

        let kept = lock(&self.0.runs).ended_bytes;
        metrics.set_now("kept_output_bytes", count(kept));
        metrics.set_now("transit_bytes", count(self.0.memory.total()));

        if let Ok(engine) = self.engine() {
            let (capacity, vms, pool) =
                (engine.capacity(), engine.vm_stats(), engine.pool_status());
            metrics.set_now("memory_free_mib", capacity.free_mib.into());
            metrics.set_now("memory_total_mib", capacity.total_mib.into());
            metrics.set_now("waiting", count(capacity.waiting));
            metrics.set_now("hot", count(pool.warm));
            metrics.set_now("standby", count(pool.standby));

            metrics.set_vms("hot", vms.hot);
            metrics.set_vms("standby", vms.standby);
            metrics.set_vms("template", vms.template);
            metrics.set_vms("boot", vms.boot);
            metrics.set_vms("checkpoint", vms.checkpoint);
            metrics.set_vms("failed_restores", vms.failed_restores);
        }

        metrics.text()
    }
}

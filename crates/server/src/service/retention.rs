//! How long outputs and records are kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::service::Service;
use crate::storage::records;
use crate::sync::lock;

/// How long records of runs and sandboxes that have ended are kept.
const RECORD_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long idempotency keys and their responses are kept.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the outputs of runs that have ended are kept.
const OUTPUT_TTL: Duration = Duration::from_secs(10 * 60);

/// The outputs of runs that have ended, in bytes, at most.
const MAX_OUTPUT_BYTES: usize = 128 * 1024 * 1024;

/// How often outputs are checked.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// Records are checked in every 120th sweep: once an hour.
const SWEEPS_PER_RECORD_SWEEP: u32 = 120;

impl Service {
    /// Starts the task that deletes old outputs and records. It ends with the service.
    pub(crate) fn start_retention(&self) {
        let service = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            for sweep in 0.. {
                let Some(service) = service.upgrade().map(Self) else {
                    return;
                };

                service.evict_outputs();
                // Outputs leave holes in the heap; the allocator would keep them.
                let _ = tokio::task::spawn_blocking(fumehood_engine::trim_heap).await;
                if sweep % SWEEPS_PER_RECORD_SWEEP == 0 {
                    service.delete_old_records();
                }

                service.delete_expired_states().await;
                drop(service);
                tokio::time::sleep(SWEEP_INTERVAL).await;
            }
        });
    }

    /// Keeps the output of a run that has ended for a while.
    pub(crate) fn retain_output(&self, id: &str) {
        let mut runs = lock(&self.0.runs);
        let Some(bytes) = runs.by_id.get(id).map(|task| task.bytes()) else {
            return;
        };
        runs.ended.push_back((Instant::now(), id.to_owned(), bytes));
        runs.ended_bytes += bytes;
        drop(runs);

        self.evict_outputs();
        self.0.capacity_freed.notify_waiters();
    }

    /// Evicts outputs that are too old, and while there are too many, the oldest one of the owner with the largest.
    fn evict_outputs(&self) {
        let mut runs = lock(&self.0.runs);
        while let Some((ended, _, _)) = runs.ended.front() {
            let at = if ended.elapsed() >= OUTPUT_TTL {
                0
            } else if runs.ended_bytes > MAX_OUTPUT_BYTES {
                runs.oldest_of_largest_owner()
            } else {
                break;
            };

            let Some((_, id, bytes)) = runs.ended.remove(at) else {
                break;
            };
            runs.ended_bytes -= bytes;

            // Callers that are still reading it must not keep it in memory.
            if let Some(task) = runs.by_id.remove(&id) {
                task.discard();
            }
        }
    }

    fn delete_old_records(&self) {
        let now_ms = Timestamp::now().as_millisecond();
        let ms = |age: Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let (records, keys) = (now_ms - ms(RECORD_TTL), now_ms - ms(IDEMPOTENCY_TTL));
        // A failure has been logged; the next sweep tries again.
        let _ = records::delete_before(&self.0.store, records, keys);
    }
}

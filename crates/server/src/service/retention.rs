//! What is forgotten, and when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::service::Service;
use crate::storage::records;
use crate::sync::lock;

/// What became of runs and sandboxes is known for this long.
const KNOWN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What idempotency keys gave is known for this long.
const CLAIMED: Duration = Duration::from_secs(24 * 60 * 60);

/// Outputs of ended runs are kept for this long.
const OUTPUTS: Duration = Duration::from_secs(10 * 60);

/// And no more than so many bytes of them.
const OUTPUTS_BYTES: usize = 256 * 1024 * 1024;

/// How often outputs are looked through.
const OFTEN: Duration = Duration::from_secs(30);

/// Every so many turns records are looked through: once an hour.
const RECORDS: u32 = 120;

impl Service {
    /// Forgets outputs that are kept too long or are too many.
    pub(crate) fn forget_outputs(&self) {
        let mut jobs = lock(&self.0.jobs);
        while let Some((at, id, bytes)) = jobs.ended.front().cloned() {
            if at.elapsed() < OUTPUTS && jobs.ended_bytes <= OUTPUTS_BYTES {
                break;
            }
            jobs.ended.pop_front();
            jobs.ended_bytes -= bytes;
            jobs.by_id.remove(&id);
        }
    }

    /// A run has ended, and is kept for a while.
    pub(crate) fn keep_for_a_while(&self, id: &str) {
        let mut jobs = lock(&self.0.jobs);
        let Some(bytes) = jobs.by_id.get(id).map(|job| job.bytes()) else {
            return;
        };
        jobs.ended.push_back((Instant::now(), id.to_owned(), bytes));
        jobs.ended_bytes += bytes;
        drop(jobs);
        self.forget_outputs();
        self.0.less.notify_waiters();
    }

    fn forget_records(&self) {
        let past = |age: Duration| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            Timestamp::now().as_millisecond() - age
        };
        // What cannot be written has been logged, and is forgotten the next time.
        let _ = records::delete_before(&self.0.store, past(KNOWN), past(CLAIMED));
    }

    /// Starts the task that forgets; it ends with the service.
    pub(crate) fn start_retention(&self) {
        let service = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            for turn in 0.. {
                let Some(service) = service.upgrade().map(Self) else {
                    return;
                };
                service.forget_outputs();
                if turn % RECORDS == 0 {
                    service.forget_records();
                }
                drop(service);
                tokio::time::sleep(OFTEN).await;
            }
        });
    }
}

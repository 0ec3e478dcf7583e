use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::stall_timer::STALL_TIMEOUT;
use crate::error::{Error, ErrorKind};

/// Minimum rate of all transfers together beyond [`STALL_TIMEOUT`], in bytes per second. An emulated guest sends
/// 180 MB/s; one that is 100 times slower on purpose would hold the VM of a run for hours.
const MIN_BYTES_PER_S: u64 = 1024 * 1024;

/// Minimum rate of the copy of one directory of a sandbox beyond [`STALL_TIMEOUT`], in bytes per second. Its many small
/// files may take long, and its caller has chosen to wait for it.
const MIN_DIRECTORY_BYTES_PER_S: u64 = 16 * 1024;

/// Limits how long all uploads of a run may take together, or all downloads: [`STALL_TIMEOUT`], and a second for each
/// MiB that was transferred. Without it, each of a thousand transfers could stall for nearly a minute. The same for the
/// copy of one directory, at a lower rate.
#[derive(Debug)]
pub(crate) struct TransferDeadline {
    start: Instant,
    transferred: Arc<AtomicU64>,
    min_bytes_per_s: u64,
    /// What takes too long, for the error.
    what: &'static str,
}

impl TransferDeadline {
    /// Starts the clock for the files of a run. `transferred` counts the bytes from now on.
    pub(crate) fn start(transferred: Arc<AtomicU64>) -> Self {
        Self {
            start: Instant::now(),
            transferred,
            min_bytes_per_s: MIN_BYTES_PER_S,
            what: "the files of the run",
        }
    }

    /// Starts the clock for one directory. `transferred` counts the bytes of its tar stream.
    pub(crate) fn of_directory(transferred: Arc<AtomicU64>) -> Self {
        Self {
            min_bytes_per_s: MIN_DIRECTORY_BYTES_PER_S,
            what: "the copy of the directory",
            ..Self::start(transferred)
        }
    }

    /// Waits until the time is over; returns the error for what was not transferred.
    pub(crate) async fn expired(&self) -> Error {
        loop {
            let bytes = self.transferred.load(Ordering::Relaxed);
            let allowed = STALL_TIMEOUT + Duration::from_secs(bytes / self.min_bytes_per_s);
            let deadline = self.start + allowed;
            if Instant::now() >= deadline {
                let seconds = allowed.as_secs();
                let what = self.what;
                let message =
                    format!("{what} took longer than {seconds} s for {bytes} bytes together");
                return Error::new(ErrorKind::Lost, message);
            }

            // Bytes that arrive meanwhile move the deadline.
            sleep_until(deadline).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_transferred_bytes_extend_the_deadline() {
        let start = Instant::now();
        let bytes = Arc::new(AtomicU64::new(0));
        let deadline = TransferDeadline::start(bytes.clone());
        let error = deadline.expired().await;
        assert_eq!(error.kind(), ErrorKind::Lost);
        assert_eq!(start.elapsed(), STALL_TIMEOUT);

        // Ten MiB in the first minute are worth ten seconds.
        let start = Instant::now();
        let deadline = TransferDeadline::start(bytes.clone());
        let transfer = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            bytes.store(10 * MIN_BYTES_PER_S, Ordering::Relaxed);
        };

        tokio::join!(transfer, deadline.expired());
        assert_eq!(start.elapsed(), STALL_TIMEOUT + Duration::from_secs(10));

        // A directory may be slower.
        let start = Instant::now();
        let error = TransferDeadline::of_directory(bytes.clone())
            .expired()
            .await;
        let expected = STALL_TIMEOUT + Duration::from_secs(640);
        assert_eq!(start.elapsed(), expected, "{error}");
    }
}

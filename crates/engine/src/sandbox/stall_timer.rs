use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::{Error, ErrorKind};

/// How long a guest may send nothing while a transfer is in progress.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Minimum transfer rate beyond that, in bytes per second. An emulated guest sends 180 MB/s; one that sends single
/// bytes could continue for years without ever stalling.
const MIN_BYTES_PER_S: u64 = 16 * 1024;

/// Limits how long a long answer of a guest may take: waiting times add up, and received bytes extend the limit.
#[derive(Debug, Default)]
pub(crate) struct StallTimer {
    waited: Duration,
    bytes: u64,
}

impl StallTimer {
    /// Waits for the next piece; [`record_bytes`](Self::record_bytes) then adds its size.
    ///
    /// # Errors
    /// Returns the error of `next`, and [`ErrorKind::Lost`] if the guest is too slow.
    pub(crate) async fn wait<T>(
        &mut self,
        next: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let allowed = STALL_TIMEOUT + Duration::from_secs(self.bytes / MIN_BYTES_PER_S);
        let start = Instant::now();
        let next = timeout(allowed.saturating_sub(self.waited), next).await;
        self.waited += start.elapsed();

        next.unwrap_or_else(|_| {
            let message = format!(
                "the guest sent only {} bytes in {} s; use a new sandbox",
                self.bytes,
                self.waited.as_secs()
            );
            Err(Error::new(ErrorKind::Lost, message).after_start())
        })
    }

    /// Records the size of a piece.
    pub(crate) fn record_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Receives pieces of this size at this interval; returns how long it takes until the timer gives up.
    async fn time_until_error(bytes: usize, interval: Duration, pieces: usize) -> Option<Duration> {
        let (start, mut timer) = (Instant::now(), StallTimer::default());
        for _ in 0..pieces {
            let piece = async {
                sleep(interval).await;
                Ok(())
            };

            match timer.wait(piece).await {
                Ok(()) => timer.record_bytes(bytes),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Lost);
                    return Some(start.elapsed());
                }
            }
        }

        None
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_adds_up_and_received_bytes_extend_it() {
        let second = Duration::from_secs(1);
        let slow = time_until_error(1, second, 1000).await.unwrap();
        assert_eq!(slow.as_secs(), STALL_TIMEOUT.as_secs());

        let fast_enough = usize::try_from(MIN_BYTES_PER_S).unwrap();
        assert_eq!(time_until_error(fast_enough, second, 1000).await, None);

        let silent = time_until_error(0, STALL_TIMEOUT + second, 1)
            .await
            .unwrap();

        assert_eq!(silent.as_secs(), STALL_TIMEOUT.as_secs());
    }
}

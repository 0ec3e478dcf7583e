use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::{Error, ErrorKind};

/// How long a guest may do nothing at all for what is on its way.
pub(crate) const STALL: Duration = Duration::from_secs(60);

/// What has to come in each second beyond that, in bytes. An emulated guest sends 180 MB/s; one that sends a byte
/// now and then could go on for years without ever stalling.
const LEAST_BYTES_PER_S: u64 = 16 * 1024;

/// How long a guest is waited for that sends something long: its slowness adds up, and what it sends pays for it.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    waited: Duration,
    bytes: u64,
}

impl Patience {
    /// Waits for what comes next; [`came`](Self::came) says how much that was.
    ///
    /// # Errors
    /// Its own, or [`ErrorKind::Lost`]: it is too slow.
    pub(crate) async fn wait<T>(
        &mut self,
        next: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let allowed = STALL + Duration::from_secs(self.bytes / LEAST_BYTES_PER_S);
        let begun = Instant::now();
        let next = timeout(allowed.saturating_sub(self.waited), next).await;
        self.waited += begun.elapsed();
        next.unwrap_or_else(|_| {
            let message = format!(
                "the guest sent {} bytes in {} s, and is not waited for any longer; use a new sandbox",
                self.bytes,
                self.waited.as_secs()
            );
            Err(Error::new(ErrorKind::Lost, message).after_start())
        })
    }

    /// Some of it has come.
    pub(crate) fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Pieces of this size, each after so long: how long it takes until they are not waited for.
    async fn until_given_up(bytes: usize, each: Duration, most: usize) -> Option<Duration> {
        let (begun, mut patience) = (Instant::now(), Patience::default());
        for _ in 0..most {
            let piece = async {
                sleep(each).await;
                Ok(())
            };
            match patience.wait(piece).await {
                Ok(()) => patience.came(bytes),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Lost);
                    return Some(begun.elapsed());
                }
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn slowness_adds_up_and_bytes_pay_for_it() {
        let second = Duration::from_secs(1);
        let given_up = until_given_up(1, second, 1000).await.unwrap();
        assert_eq!(given_up.as_secs(), STALL.as_secs());
        let fair = usize::try_from(LEAST_BYTES_PER_S).unwrap();
        assert_eq!(until_given_up(fair, second, 1000).await, None);
        let silent = until_given_up(0, STALL + second, 1).await.unwrap();
        assert_eq!(silent.as_secs(), STALL.as_secs());
    }
}

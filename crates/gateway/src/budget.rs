use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::policy::NetworkLimits;

/// So many things a second, on average; as many may come at once.
#[derive(Debug)]
pub(crate) struct Rate {
    per_s: u64,
    /// What may come now, and since when.
    state: Mutex<(f64, Instant)>,
}

impl Rate {
    pub(crate) fn new(per_s: u64) -> Self {
        Self {
            per_s,
            state: Mutex::new((as_f64(per_s), Instant::now())),
        }
    }

    /// Whether one more may come.
    pub(crate) fn take(&self) -> bool {
        self.state(|left| {
            let may = *left >= 1.0;
            if may {
                *left -= 1.0;
            }
            may
        })
    }

    /// Uses up so much, also more than there is; returns how long to wait then.
    fn spend(&self, amount: u64) -> Duration {
        let per_s = as_f64(self.per_s);
        self.state(|left| {
            *left -= as_f64(amount);
            Duration::try_from_secs_f64((-*left / per_s).max(0.0)).unwrap_or(Duration::MAX)
        })
    }

    fn state<T>(&self, act: impl FnOnce(&mut f64) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let per_s = as_f64(self.per_s);
        let grown = now.duration_since(state.1).as_secs_f64() * per_s;
        *state = ((state.0 + grown).min(per_s), now);
        act(&mut state.0)
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "rates need no more precision than that"
)]
fn as_f64(number: u64) -> f64 {
    number as f64
}

/// What a guest may use in all, and has.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: NetworkLimits,
    up: AtomicU64,
    down: AtomicU64,
    bytes: Option<Rate>,
}

impl Budget {
    pub(crate) fn new(limits: NetworkLimits) -> Self {
        Self {
            limits,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            bytes: limits.bytes_per_s.map(Rate::new),
        }
    }

    /// One that is never used up.
    pub(crate) fn unlimited() -> Self {
        Self::new(NetworkLimits {
            bytes_up: u64::MAX,
            bytes_down: u64::MAX,
            bytes_per_s: None,
            ..NetworkLimits::default()
        })
    }

    /// Bytes from the guest, and to it.
    pub(crate) fn used(&self) -> (u64, u64) {
        (
            self.up.load(Ordering::Relaxed),
            self.down.load(Ordering::Relaxed),
        )
    }

    /// Whether more bytes may go, from the guest (`up`) or to it.
    ///
    /// # Errors
    /// [`Spent`].
    fn afford(&self, up: bool) -> Result<(), Spent> {
        let ((used_up, used_down), limits) = (self.used(), &self.limits);
        let (used, bytes, direction, limit) = match up {
            true => (used_up, limits.bytes_up, "from the guest", "bytes_up"),
            false => (used_down, limits.bytes_down, "to the guest", "bytes_down"),
        };
        match used < bytes {
            true => Ok(()),
            false => Err(Spent {
                bytes,
                direction,
                limit,
            }),
        }
    }

    /// Whether a question may be sent, and its answer be read.
    ///
    /// # Errors
    /// [`Spent`].
    pub(crate) fn afford_both(&self) -> Result<(), Spent> {
        self.afford(true).and(self.afford(false))
    }
}

/// The budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes {direction} are used up; raise `{limit}` in the policy's limits")]
pub(crate) struct Spent {
    bytes: u64,
    direction: &'static str,
    limit: &'static str,
}

/// A connection to somebody else, whose bytes are counted and paid for.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    stream: S,
    budget: Arc<Budget>,
    count: Arc<Count>,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Bytes of one connection, and what ended it if that was the budget.
#[derive(Debug, Default)]
pub(crate) struct Count {
    up: AtomicU64,
    down: AtomicU64,
    spent: OnceLock<Spent>,
}

impl Count {
    /// Bytes from the guest, and to it.
    pub(crate) fn read(&self) -> (u64, u64) {
        (
            self.up.load(Ordering::Relaxed),
            self.down.load(Ordering::Relaxed),
        )
    }
}

impl Count {
    /// The budget that was used up, if that was what ended it.
    pub(crate) fn spent(&self) -> Option<Spent> {
        self.spent.get().copied()
    }
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, budget: Arc<Budget>, count: Arc<Count>) -> Self {
        Self {
            stream,
            budget,
            count,
            pause: None,
        }
    }

    /// The stream itself.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Waits until there may be more.
    fn paused(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn pay(&mut self, bytes: usize, up: bool) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let (of_all, of_this) = match up {
            true => (&self.budget.up, &self.count.up),
            false => (&self.budget.down, &self.count.down),
        };
        of_all.fetch_add(bytes, Ordering::Relaxed);
        of_this.fetch_add(bytes, Ordering::Relaxed);
        let wait = self.budget.bytes.as_ref().map(|rate| rate.spend(bytes));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            self.pause = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    fn afford(&self, up: bool) -> io::Result<()> {
        self.budget.afford(up).map_err(|spent| {
            let _ = self.count.spent.set(spent);
            io::Error::other(spent)
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.paused(context));
        self.afford(false)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        self.pay(read, false);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.paused(context));
        self.afford(true)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.pay(written, true);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_lets_as_many_through_as_it_says() {
        let rate = Rate::new(10);
        let taken = (0..20).filter(|_| rate.take()).count();
        assert_eq!(taken, 10);
        tokio::time::advance(Duration::from_millis(500)).await;
        let taken = (0..20).filter(|_| rate.take()).count();
        assert_eq!(taken, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_counted_slowed_down_and_end() {
        let limits = NetworkLimits {
            bytes_up: 3000,
            bytes_per_s: Some(1000),
            ..NetworkLimits::default()
        };
        let budget = Arc::new(Budget::new(limits));
        let (near, mut far) = tokio::io::duplex(100_000);
        let count = Arc::<Count>::default();
        let mut metered = Metered::new(near, budget.clone(), count.clone());
        assert_eq!(budget.afford_both(), Ok(()));
        let begun = Instant::now();
        for _ in 0..3 {
            metered.write_all(&[0; 1000]).await.unwrap();
        }
        let error = metered.write_all(&[0; 1]).await.unwrap_err();
        assert!(error.to_string().contains("`bytes_up`"), "{error}");
        assert_eq!(count.spent(), budget.afford_both().err());
        let took = begun.elapsed();
        assert!(
            took >= Duration::from_secs(2) && took < Duration::from_secs(4),
            "{took:?}"
        );
        far.write_all(b"down").await.unwrap();
        let mut four = [0; 4];
        metered.read_exact(&mut four).await.unwrap();
        assert_eq!((budget.used(), count.read()), ((3000, 4), (3000, 4)));
    }
}

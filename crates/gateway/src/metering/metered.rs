use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::budget::{Budget, Spent};

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
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;
    use crate::policy::NetworkLimits;

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

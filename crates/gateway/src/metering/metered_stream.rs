//! A connection whose bytes are charged to a budget.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::budget::{Budget, BudgetExceeded};

/// The upstream side of a connection. Bytes written to it come from the guest, bytes read from it go to the guest;
/// both are counted and charged to the guest's budget.
#[derive(Debug)]
pub(crate) struct MeteredStream<S> {
    stream: S,
    budget: Arc<Budget>,
    counter: Arc<ByteCounter>,
    /// Delays the next read or write to keep the rate.
    pause: Option<Pin<Box<Sleep>>>,
}

/// The bytes of one connection, and the exceeded budget if that ended it.
#[derive(Debug, Default)]
pub(crate) struct ByteCounter {
    up: AtomicU64,
    down: AtomicU64,
    exceeded: OnceLock<BudgetExceeded>,
}

impl ByteCounter {
    /// Returns the bytes transferred from the guest, and to it.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (
            self.up.load(Ordering::Relaxed),
            self.down.load(Ordering::Relaxed),
        )
    }

    /// Returns the exceeded budget, if that ended the connection.
    pub(crate) fn exceeded(&self) -> Option<BudgetExceeded> {
        self.exceeded.get().copied()
    }
}

impl<S> MeteredStream<S> {
    pub(crate) fn new(stream: S, budget: Arc<Budget>, counter: Arc<ByteCounter>) -> Self {
        Self {
            stream,
            budget,
            counter,
            pause: None,
        }
    }

    /// Returns the inner stream.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Waits until the rate allows more bytes.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn charge(&mut self, bytes: usize, up: bool) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let counted = if up {
            &self.counter.up
        } else {
            &self.counter.down
        };
        counted.fetch_add(bytes, Ordering::Relaxed);

        let wait = self.budget.charge(bytes, up);
        if !wait.is_zero() {
            self.pause = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    fn check(&self, up: bool) -> io::Result<()> {
        self.budget.check(up).map_err(|exceeded| {
            let _ = self.counter.exceeded.set(exceeded);
            io::Error::other(exceeded)
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_pause(context));
        self.check(false)?;

        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        self.charge(read, false);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pause(context));
        self.check(true)?;

        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.charge(written, true);
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
    async fn bytes_are_counted_slowed_down_and_limited() {
        let limits = NetworkLimits {
            bytes_up: 3000,
            bytes_per_s: Some(1000),
            ..NetworkLimits::default()
        };
        let budget = Arc::new(Budget::new(limits));
        let (near, mut far) = tokio::io::duplex(100_000);
        let counter = Arc::<ByteCounter>::default();
        let mut metered = MeteredStream::new(near, budget.clone(), counter.clone());
        assert_eq!(budget.check_both(), Ok(()));

        let start = Instant::now();
        for _ in 0..3 {
            metered.write_all(&[0; 1000]).await.unwrap();
        }
        let error = metered.write_all(&[0; 1]).await.unwrap_err();
        assert!(error.to_string().contains("`bytes_up`"), "{error}");
        assert_eq!(counter.exceeded(), budget.check_both().err());
        let took = start.elapsed();
        assert!(
            took >= Duration::from_secs(2) && took < Duration::from_secs(4),
            "{took:?}"
        );

        far.write_all(b"down").await.unwrap();
        let mut four = [0; 4];
        metered.read_exact(&mut four).await.unwrap();
        assert_eq!((budget.used(), counter.totals()), ((3000, 4), (3000, 4)));
    }
}

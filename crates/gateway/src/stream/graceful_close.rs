use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::byte_stream::Stream;

/// Bytes that are still taken from a peer after our last word. A peer that has more to say than
/// this sees its connection reset.
pub(crate) const LINGER_BYTES: usize = 256 * 1024;

/// Time that a peer has to read our last word and to close.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// A stream whose shutdown waits, within bounds, until the peer has closed as well.
///
/// A connection that is given up while the peer still sends is reset, and a reset throws away
/// what the peer has not read yet: the very page that tells it why.
#[derive(Debug)]
pub(crate) struct Lingering<S> {
    stream: S,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Draining { left: usize, until: Pin<Box<Sleep>> },
    Closed,
}

impl<S> Lingering<S> {
    /// Wraps a stream.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            state: State::Open,
        }
    }
}

impl<S: Stream> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Stream> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.state, State::Open) {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.state = State::Draining {
                left: LINGER_BYTES,
                until: Box::pin(tokio::time::sleep(LINGER)),
            };
        }
        if let State::Draining { left, until } = &mut this.state {
            ready!(drain(&mut this.stream, left, until.as_mut(), cx));
            this.state = State::Closed;
        }
        Poll::Ready(Ok(()))
    }
}

/// Takes and forgets what still comes. However this ends, the stream is done with.
fn drain<S: Stream>(
    stream: &mut S,
    left: &mut usize,
    until: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if until.poll(cx).is_ready() {
        return Poll::Ready(());
    }
    let mut bin = [0; 4096];
    loop {
        let mut buffer = ReadBuf::new(&mut bin);
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() && *left > buffer.filled().len() => {
                *left -= buffer.filled().len();
            }
            _ => return Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_takes_what_still_comes_and_ends_with_the_peer() {
        let (mut far, near) = tokio::io::duplex(16);
        let closing = tokio::spawn(async move { Lingering::new(near).shutdown().await });
        far.write_all(&[1; 4096]).await.unwrap();
        assert!(!closing.is_finished());
        drop(far);
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_waited_for_no_longer_than_the_deadline() {
        let (_far, near) = tokio::io::duplex(16);
        let begun = tokio::time::Instant::now();
        Lingering::new(near).shutdown().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), LINGER.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_stops_is_cut_at_the_bound() {
        let (mut far, near) = tokio::io::duplex(4096);
        let closing = tokio::spawn(async move { Lingering::new(near).shutdown().await });
        let mut sent = 0;
        while far.write_all(&[1; 4096]).await.is_ok() {
            sent += 4096;
        }
        closing.await.unwrap().unwrap();
        assert!(sent <= LINGER_BYTES + 2 * 4096, "{sent}");
    }
}

//! A stream that closes without losing the last bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::byte_stream::Stream;

/// Maximum number of bytes that are read from a peer after the last write. The connection of a peer that sends more is
/// reset.
const MAX_DRAINED_BYTES: usize = 256 * 1024;

/// Time for a peer to read the last write and to close.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A stream whose shutdown waits, within bounds, until the peer has closed as well.
///
/// If a connection is dropped while the peer still sends, it is reset. A reset discards the bytes that the peer has
/// not read yet, such as the page that explains a refusal.
#[derive(Debug)]
pub(crate) struct GracefulClose<S> {
    stream: S,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Draining {
        bytes_left: usize,
        deadline: Pin<Box<Sleep>>,
    },
    Closed,
}

impl<S> GracefulClose<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            state: State::Open,
        }
    }
}

impl<S: Stream> AsyncRead for GracefulClose<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Stream> AsyncWrite for GracefulClose<S> {
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
                bytes_left: MAX_DRAINED_BYTES,
                deadline: Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)),
            };
        }

        if let State::Draining {
            bytes_left,
            deadline,
        } = &mut this.state
        {
            ready!(drain(&mut this.stream, bytes_left, deadline.as_mut(), cx));
            this.state = State::Closed;
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads and discards further bytes of the peer, until it closes, fails, or exceeds a bound.
fn drain<S: Stream>(
    stream: &mut S,
    bytes_left: &mut usize,
    deadline: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if deadline.poll(cx).is_ready() {
        return Poll::Ready(());
    }

    let mut discarded = [0; 4096];
    loop {
        let mut buffer = ReadBuf::new(&mut discarded);
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() && *bytes_left > buffer.filled().len() => {
                *bytes_left -= buffer.filled().len();
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
    async fn shutdown_reads_until_the_peer_closes() {
        let (mut far, near) = tokio::io::duplex(16);
        let closing = tokio::spawn(async move { GracefulClose::new(near).shutdown().await });
        far.write_all(&[1; 4096]).await.unwrap();
        assert!(!closing.is_finished());
        drop(far);
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up_at_the_deadline() {
        let (_far, near) = tokio::io::duplex(16);
        let start = tokio::time::Instant::now();
        GracefulClose::new(near).shutdown().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), CLOSE_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_without_end_is_cut_off_at_the_bound() {
        let (mut far, near) = tokio::io::duplex(4096);
        let closing = tokio::spawn(async move { GracefulClose::new(near).shutdown().await });
        let mut sent = 0;
        while far.write_all(&[1; 4096]).await.is_ok() {
            sent += 4096;
        }
        closing.await.unwrap().unwrap();
        assert!(sent <= MAX_DRAINED_BYTES + 2 * 4096, "{sent}");
    }
}

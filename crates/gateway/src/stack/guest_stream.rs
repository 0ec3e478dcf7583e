//! Connections of the guest as byte streams.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::socket::tcp::{RecvError, Socket, State as TcpState};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::network_stack::GuestStream;

/// Time for the last bytes and the end of a connection to reach the guest after its [`GuestStream`] is dropped.
pub(super) const ORPHAN_TIMEOUT: Duration = Duration::from_secs(30);

impl GuestStream {
    /// Returns the address and port that the guest connected to.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.tuple.remote
    }

    /// Accepts a connection that the guest opens; returns `false` if the guest has given it up.
    pub(crate) async fn accept(&self) -> bool {
        self.with_socket(|socket| socket.pause_synack(false));
        self.stack.0.changed.notify_one();
        self.established().await
    }

    /// Waits until the connection is open; returns `false` if it fails.
    pub(super) async fn established(&self) -> bool {
        std::future::poll_fn(|context| {
            self.with_socket(|socket| match socket.state() {
                TcpState::SynSent | TcpState::SynReceived => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                TcpState::Closed | TcpState::Listen => Poll::Ready(false),
                _ => Poll::Ready(true),
            })
        })
        .await
    }

    fn with_socket<T>(&self, act: impl FnOnce(&mut Socket<'static>) -> T) -> T {
        let mut state = self.stack.lock();
        act(state.sockets.get_mut::<Socket<'_>>(self.handle))
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.with_socket(|socket| {
            if !socket.can_recv() && socket.may_recv() {
                socket.register_recv_waker(context.waker());
                return Poll::Pending;
            }
            Poll::Ready(socket.recv_slice(buffer.initialize_unfilled()))
        });

        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(read)) => {
                buffer.advance(read);
                // The receive window has grown; the driver must announce it to the guest.
                self.stack.0.changed.notify_one();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(RecvError::Finished)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(RecvError::InvalidState)) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.with_socket(|socket| {
            if !socket.may_send() {
                return Poll::Ready(None);
            }

            // Fill the send buffer from the pieces, in order.
            let mut total = 0;
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let sent = socket.send_slice(piece).unwrap_or_default();
                total += sent;
                if sent < piece.len() {
                    break;
                }
            }
            if total > 0 || pieces.iter().all(|piece| piece.is_empty()) {
                return Poll::Ready(Some(total));
            }

            socket.register_send_waker(context.waker());
            Poll::Pending
        });

        match written {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(total)) => {
                self.stack.0.changed.notify_one();
                Poll::Ready(Ok(total))
            }
            Poll::Ready(None) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut_down = true;
        self.with_socket(Socket::close);
        self.stack.0.changed.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for GuestStream {
    fn drop(&mut self) {
        let mut state = self.stack.lock();
        if !self.is_shut_down {
            state.sockets.get_mut::<Socket<'_>>(self.handle).abort();
        }
        state
            .orphans
            .push((self.handle, Instant::now() + ORPHAN_TIMEOUT));
        drop(state);
        self.stack.0.changed.notify_one();
    }
}

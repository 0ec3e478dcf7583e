use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::socket::tcp::{RecvError, Socket, State as TcpState};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::network_stack::GuestStream;

/// How long the last bytes and the end of a connection may take to reach the guest, once nobody holds the
/// connection any more.
pub(super) const LINGER: Duration = Duration::from_secs(30);

impl GuestStream {
    /// Whom the guest connected to.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.tuple.remote
    }

    /// Lets a connection that the guest opens come about; `false`: the guest has given it up.
    pub(crate) async fn accept(&self) -> bool {
        self.with(|socket| socket.pause_synack(false));
        self.stack.0.changed.notify_one();
        self.established().await
    }

    /// Waits until the connection is open; `false`: it will not be.
    pub(super) async fn established(&self) -> bool {
        std::future::poll_fn(|context| {
            self.with(|socket| match socket.state() {
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

    fn with<T>(&self, act: impl FnOnce(&mut Socket<'static>) -> T) -> T {
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
        let read = self.with(|socket| {
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
                // There is room again, and the guest is to know.
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
        let written = self.with(|socket| {
            if !socket.may_send() {
                return Poll::Ready(None);
            }
            let mut sent = 0;
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let now = socket.send_slice(piece).unwrap_or_default();
                sent += now;
                if now < piece.len() {
                    break;
                }
            }
            if sent > 0 || pieces.iter().all(|piece| piece.is_empty()) {
                return Poll::Ready(Some(sent));
            }
            socket.register_send_waker(context.waker());
            Poll::Pending
        });
        match written {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(sent)) => {
                self.stack.0.changed.notify_one();
                Poll::Ready(Ok(sent))
            }
            Poll::Ready(None) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        self.with(Socket::close);
        self.stack.0.changed.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for GuestStream {
    fn drop(&mut self) {
        let mut state = self.stack.lock();
        if !self.finished {
            state.sockets.get_mut::<Socket<'_>>(self.handle).abort();
        }
        state.orphans.push((self.handle, Instant::now() + LINGER));
        drop(state);
        self.stack.0.changed.notify_one();
    }
}

//! How long a guest's connection may rest, by what it is doing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::limits::{HEAD, IDLE, UPGRADED};
use crate::stream::Stream;

/// Time beyond the server's for its lateness to be told.
const GRACE: Duration = Duration::from_secs(10);

/// When a connection last showed life, and in what.
#[derive(Debug)]
pub(super) struct Pulse {
    answer: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Requests that are not over: an answer may end before its request does.
    open: usize,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Since the last byte, no request has begun.
    Idle(Instant),
    /// A request's head has begun, and is not restarted by further bytes.
    Head(Instant),
    /// A request is being served; last byte of either side.
    Busy(Instant),
    /// No requests any more; last byte of either side.
    Upgraded(Instant),
}

impl Pulse {
    /// A connection that has just begun, with a head.
    pub(super) fn new(answer: Duration) -> Self {
        Self {
            answer,
            state: Mutex::new(State {
                phase: Phase::Head(Instant::now()),
                open: 0,
            }),
        }
    }

    /// A head is complete.
    pub(super) fn busy(&self) {
        let mut state = self.state();
        state.open += 1;
        state.phase = Phase::Busy(Instant::now());
    }

    /// A request is over.
    pub(super) fn idle(&self) {
        let mut state = self.state();
        state.open -= 1;
        if state.open == 0 {
            state.phase = Phase::Idle(Instant::now());
        }
    }

    /// The connection has been upgraded.
    pub(super) fn upgraded(&self) {
        self.state().phase = Phase::Upgraded(Instant::now());
    }

    /// One side of an upgraded connection has ended; the other may not take long.
    pub(super) fn closing(&self) {
        self.state().phase = Phase::Idle(Instant::now());
    }

    /// Either side has sent something.
    pub(super) fn beat(&self) {
        match &mut self.state().phase {
            Phase::Idle(last) | Phase::Busy(last) | Phase::Upgraded(last) => *last = Instant::now(),
            Phase::Head(_) => {}
        }
    }

    /// When a request's bodies last moved, or it began.
    pub(super) fn last(&self) -> Instant {
        match self.state().phase {
            Phase::Idle(at) | Phase::Head(at) | Phase::Busy(at) | Phase::Upgraded(at) => at,
        }
    }

    /// Waits until the connection has rested for too long.
    pub(super) async fn stopped(&self) {
        loop {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return;
            }
            // A phase with a nearer end may begin meanwhile.
            let soon = Instant::now() + HEAD.min(self.answer);
            tokio::time::sleep_until(deadline.min(soon)).await;
        }
    }

    fn deadline(&self) -> Instant {
        match self.state().phase {
            Phase::Idle(at) => at + IDLE,
            Phase::Head(at) => at + HEAD,
            Phase::Busy(at) => at + self.answer + GRACE,
            Phase::Upgraded(at) => at + UPGRADED,
        }
    }

    fn read(&self) {
        let mut state = self.state();
        if let Phase::Idle(_) = state.phase {
            state.phase = Phase::Head(Instant::now());
            return;
        }
        drop(state);
        self.beat();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest's stream whose bytes are felt.
#[derive(Debug)]
pub(super) struct Felt<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Felt<S> {
    pub(super) fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }
}

impl<S: Stream> AsyncRead for Felt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.read();
        }
        polled
    }
}

impl<S: Stream> AsyncWrite for Felt<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if polled.is_ready() {
            self.pulse.beat();
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        if polled.is_ready() {
            self.pulse.beat();
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

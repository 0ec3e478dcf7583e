//! How long a connection of the guest may be idle in each of its phases.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::limits::{HEAD_TIMEOUT, IDLE_TIMEOUT, UPGRADED_TIMEOUT};
use crate::stream::Stream;

/// Time after the answer's deadline for the guest to receive the timeout page.
const TIMEOUT_PAGE_GRACE: Duration = Duration::from_secs(10);

/// Measures how long a connection has been idle.
#[derive(Debug)]
pub(super) struct IdleTimer {
    answer_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The number of unfinished requests: an answer may end before its request does.
    open_requests: usize,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No request has started since the last byte.
    Idle(Instant),
    /// A request's head has started. Further bytes do not extend its deadline.
    Head(Instant),
    /// A request is being served; the time of the last byte of either side.
    Busy(Instant),
    /// The connection is upgraded; the time of the last byte of either side.
    Upgraded(Instant),
}

impl IdleTimer {
    /// Starts the timer of a new connection, which starts with a head.
    pub(super) fn new(answer_timeout: Duration) -> Self {
        Self {
            answer_timeout,
            state: Mutex::new(State {
                phase: Phase::Head(Instant::now()),
                open_requests: 0,
            }),
        }
    }

    /// Records that a head is complete.
    pub(super) fn request_started(&self) {
        let mut state = self.lock();
        state.open_requests += 1;
        state.phase = Phase::Busy(Instant::now());
    }

    /// Records that a request is finished.
    pub(super) fn request_finished(&self) {
        let mut state = self.lock();
        state.open_requests -= 1;
        if state.open_requests == 0 {
            state.phase = Phase::Idle(Instant::now());
        }
    }

    /// Records that the connection is upgraded.
    pub(super) fn upgraded(&self) {
        self.lock().phase = Phase::Upgraded(Instant::now());
    }

    /// Records that one side of an upgraded connection has closed. The other side has a short deadline.
    pub(super) fn half_closed(&self) {
        self.lock().phase = Phase::Idle(Instant::now());
    }

    /// Records that either side has sent something.
    pub(super) fn record_activity(&self) {
        match &mut self.lock().phase {
            Phase::Idle(last) | Phase::Busy(last) | Phase::Upgraded(last) => *last = Instant::now(),
            Phase::Head(_) => {}
        }
    }

    /// Returns when a request's bodies last moved, or when the request started.
    pub(super) fn last_activity(&self) -> Instant {
        match self.lock().phase {
            Phase::Idle(at) | Phase::Head(at) | Phase::Busy(at) | Phase::Upgraded(at) => at,
        }
    }

    /// Waits until the connection has been idle for too long.
    pub(super) async fn expired(&self) {
        loop {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return;
            }
            // A phase with an earlier deadline may start meanwhile.
            let next_check = Instant::now() + HEAD_TIMEOUT.min(self.answer_timeout);
            tokio::time::sleep_until(deadline.min(next_check)).await;
        }
    }

    fn deadline(&self) -> Instant {
        match self.lock().phase {
            Phase::Idle(at) => at + IDLE_TIMEOUT,
            Phase::Head(at) => at + HEAD_TIMEOUT,
            Phase::Busy(at) => at + self.answer_timeout + TIMEOUT_PAGE_GRACE,
            Phase::Upgraded(at) => at + UPGRADED_TIMEOUT,
        }
    }

    /// Records that bytes of the guest were read. On an idle connection they start a head.
    fn record_read(&self) {
        let mut state = self.lock();
        if let Phase::Idle(_) = state.phase {
            state.phase = Phase::Head(Instant::now());
            return;
        }
        drop(state);
        self.record_activity();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest's stream that reports its activity to the timer.
#[derive(Debug)]
pub(super) struct ActivityTracked<S> {
    stream: S,
    timer: Arc<IdleTimer>,
}

impl<S> ActivityTracked<S> {
    pub(super) fn new(stream: S, timer: Arc<IdleTimer>) -> Self {
        Self { stream, timer }
    }
}

impl<S: Stream> AsyncRead for ActivityTracked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.timer.record_read();
        }
        polled
    }
}

impl<S: Stream> AsyncWrite for ActivityTracked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if polled.is_ready() {
            self.timer.record_activity();
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
            self.timer.record_activity();
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

//! Bodies on their way: counted, without trailers, and redacted if need be. Nothing is gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::exchange::Exchange;
use crate::secret::Redactor;

/// A request's body, on its way to the server.
pub(super) struct Up {
    incoming: Incoming,
    exchange: Arc<Exchange>,
}

/// A response's body, on its way to the guest.
pub(super) enum Down {
    /// A page of ours.
    Page(Option<Bytes>, Arc<Exchange>),
    /// What the server says.
    Server {
        incoming: Incoming,
        redactor: Option<Redactor>,
        ended: bool,
        exchange: Arc<Exchange>,
    },
}

impl Up {
    pub(super) fn new(incoming: Incoming, exchange: Arc<Exchange>) -> Self {
        Self { incoming, exchange }
    }
}

impl Body for Up {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let data = ready!(next(&mut self.incoming, cx));
        if let Some(Ok(data)) = &data {
            self.exchange.up(data.len());
        }
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Body for Down {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (data, exchange) = match self.get_mut() {
            Self::Page(page, exchange) => (page.take().map(Ok), exchange),
            Self::Server {
                incoming,
                redactor: None,
                exchange,
                ..
            } => (ready!(next(incoming, cx)), exchange),
            Self::Server {
                incoming,
                redactor: Some(redactor),
                ended,
                exchange,
            } => (ready!(redacted(incoming, redactor, ended, cx)), exchange),
        };
        if let Some(Ok(data)) = &data {
            exchange.down(data.len());
        }
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page, _) => page.is_none(),
            Self::Server {
                incoming, redactor, ..
            } => incoming.is_end_stream() && redactor.as_ref().is_none_or(|kept| kept.held() == 0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page, _) => SizeHint::with_exact(page.as_ref().map_or(0, Bytes::len) as u64),
            Self::Server {
                incoming, redactor, ..
            } => {
                let held = redactor.as_ref().map_or(0, Redactor::held) as u64;
                match incoming.size_hint().exact() {
                    Some(left) => SizeHint::with_exact(left + held),
                    None => SizeHint::new(),
                }
            }
        }
    }
}

/// The next piece of data. Trailers are passed over.
fn next(
    incoming: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    loop {
        let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        if let Ok(data) = frame.into_data() {
            return Poll::Ready(Some(Ok(data)));
        }
    }
}

/// The next piece without secrets.
fn redacted(
    incoming: &mut Incoming,
    redactor: &mut Redactor,
    ended: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    while !*ended {
        let clean = match ready!(next(incoming, cx)) {
            Some(Ok(data)) => redactor.push(&data),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => {
                *ended = true;
                redactor.finish()
            }
        };
        if clean.has_remaining() {
            return Poll::Ready(Some(Ok(clean)));
        }
    }
    Poll::Ready(None)
}

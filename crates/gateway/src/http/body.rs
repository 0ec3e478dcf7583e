//! Message bodies: counted, without trailers, and redacted where secrets may occur. They are streamed, never
//! collected.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::exchange::Exchange;
use crate::secret::Redactor;

/// The body of a request, on its way to the server.
pub(super) struct RequestBody {
    incoming: Incoming,
    exchange: Arc<Exchange>,
}

/// The body of a response, on its way to the guest.
pub(super) enum ResponseBody {
    /// A page of the gateway.
    Page(Option<Bytes>, Arc<Exchange>),
    /// The server's body.
    Server {
        incoming: Incoming,
        redactor: Option<Redactor>,
        ended: bool,
        exchange: Arc<Exchange>,
    },
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, exchange: Arc<Exchange>) -> Self {
        Self { incoming, exchange }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let data = ready!(poll_data(&mut self.incoming, cx));
        if let Some(Ok(data)) = &data {
            self.exchange.add_bytes_up(data.len());
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

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // A page is one piece; the server's body passes through the redactor if there is one.
        let (data, exchange) = match self.get_mut() {
            Self::Page(page, exchange) => (page.take().map(Ok), exchange),
            Self::Server {
                incoming,
                redactor: None,
                exchange,
                ..
            } => (ready!(poll_data(incoming, cx)), exchange),
            Self::Server {
                incoming,
                redactor: Some(redactor),
                ended,
                exchange,
            } => (
                ready!(poll_redacted(incoming, redactor, ended, cx)),
                exchange,
            ),
        };

        if let Some(Ok(data)) = &data {
            exchange.add_bytes_down(data.len());
        }

        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page, _) => page.is_none(),
            Self::Server {
                incoming, redactor, ..
            } => {
                let is_holding = redactor.as_ref().is_some_and(Redactor::is_holding);
                incoming.is_end_stream() && !is_holding
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page, _) => SizeHint::with_exact(page.as_ref().map_or(0, Bytes::len) as u64),
            Self::Server {
                incoming,
                redactor: None,
                ..
            } => match incoming.size_hint().exact() {
                Some(left) => SizeHint::with_exact(left),
                None => SizeHint::new(),
            },
            // Masks have another length than values.
            Self::Server {
                redactor: Some(_), ..
            } if self.is_end_stream() => SizeHint::with_exact(0),
            Self::Server { .. } => SizeHint::new(),
        }
    }
}

/// Returns the next piece of data. Trailers are skipped.
fn poll_data(
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

/// Returns the next piece of data with secrets redacted.
fn poll_redacted(
    incoming: &mut Incoming,
    redactor: &mut Redactor,
    ended: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    while !*ended {
        let clean = match ready!(poll_data(incoming, cx)) {
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

//! Byte streams: wrappers that read bytes again or close cleanly, and the errors of a connection to a server.
//!
//! Protocols do not belong here.

mod byte_stream;
mod graceful_close;
mod replay;
mod upstream_error;

pub(crate) use byte_stream::Stream;
pub(crate) use graceful_close::{CLOSE_TIMEOUT, GracefulClose};
pub(crate) use replay::Replay;
pub(crate) use upstream_error::UpstreamError;

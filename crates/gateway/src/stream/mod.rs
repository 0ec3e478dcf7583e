//! Byte streams as the gateway holds them: read again from the start, and closed without losing what was written.

mod byte_stream;
mod graceful_close;
mod replay;
mod upstream_error;

pub(crate) use byte_stream::Stream;
pub(crate) use graceful_close::{LINGER, Lingering};
pub(crate) use replay::Rewound;
pub(crate) use upstream_error::Unreachable;

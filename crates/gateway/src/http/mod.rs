//! A proxy for HTTP/1 requests that are seen one by one.

mod upstream;

pub(crate) use upstream::Unreachable;

use tokio::io::{AsyncRead, AsyncWrite};

/// Anything that bytes go through, both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

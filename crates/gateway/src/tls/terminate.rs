//! Terminates the guest's TLS.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority::Authority;
use super::parameters::HANDSHAKE_TIMEOUT;
use crate::stream::{GracefulClose, Replay, Stream};

/// Accepts a guest's TLS in the name of `host`. `first` has been read from the stream already.
///
/// # Errors
/// Fails if the handshake fails or takes longer than [`HANDSHAKE_TIMEOUT`], or if no certificate can be made.
pub(crate) async fn terminate<S: Stream>(
    stream: S,
    first: Bytes,
    host: &str,
    authority: &Authority,
) -> io::Result<TlsStream<Replay<S>>> {
    let config = authority.server_config(host).map_err(io::Error::other)?;
    let handshake = TlsAcceptor::from(config).accept(Replay::new(first, stream));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake.into_fallible()).await? {
        Ok(tls) => Ok(tls),
        Err((error, stream)) => {
            // The alert that explains the failure is written; a reset must not discard it.
            let _ = GracefulClose::new(stream).shutdown().await;
            Err(error)
        }
    }
}

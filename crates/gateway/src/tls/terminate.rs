use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::parameters::HANDSHAKE;
use crate::stream::{Lingering, Rewound, Stream};

/// The guest's side of a connection that is looked into.
pub(crate) type Terminated<S> = tokio_rustls::server::TlsStream<Rewound<S>>;

/// Answers a guest's TLS as `host`, after `first`, which has been read of it already.
///
/// # Errors
/// The handshake failed or took longer than [`HANDSHAKE`], or no certificate could be made.
pub(crate) async fn terminate<S: Stream>(
    stream: S,
    first: Bytes,
    host: &str,
    authority: &Authority,
) -> io::Result<Terminated<S>> {
    let config = authority.server(host).map_err(io::Error::other)?;
    let handshake = TlsAcceptor::from(config).accept(Rewound::new(first, stream));
    match tokio::time::timeout(HANDSHAKE, handshake.into_fallible()).await? {
        Ok(tls) => Ok(tls),
        Err((error, stream)) => {
            // The alert that tells the guest why is written; now it must not be lost.
            let _ = Lingering::new(stream).shutdown().await;
            Err(error)
        }
    }
}

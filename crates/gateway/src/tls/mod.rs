//! TLS to its end and on again: the guest speaks with us under its sandbox's own authority, and we
//! speak with the server under the authorities that this host trusts.

mod authority;
mod trust;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;

#[allow(unused_imports, reason = "who calls it comes with the stack")]
pub(crate) use authority::{Authority, AuthorityError};
#[allow(unused_imports, reason = "who calls it comes with the stack")]
pub(crate) use trust::{Trust, TrustError};

use crate::stream::{Lingering, Rewound, Stream};

/// The one protocol that is spoken inside: what is looked into is HTTP/1.
const PROTOCOL: &[u8] = b"http/1.1";

/// Time for a handshake, on either side.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(30);

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

/// What TLS computes with. Never the process's default, which anyone may set.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

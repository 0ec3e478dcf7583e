use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;

/// The one protocol that is spoken inside: what is looked into is HTTP/1.
pub(super) const PROTOCOL: &[u8] = b"http/1.1";

/// Time for a handshake, on either side.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);

/// What TLS computes with. Never the process's default, which anyone may set.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

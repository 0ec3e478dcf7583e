//! Parameters of TLS on both sides.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;

/// The only protocol that is offered inside TLS: requests are only read in HTTP/1.
pub(super) const HTTP_1_1: &[u8] = b"http/1.1";

/// Deadline for a handshake, on either side.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the cryptography provider. The process-wide default is not used, because any library may set it.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

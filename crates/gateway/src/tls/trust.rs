//! The certificate authorities that this host trusts, and TLS with servers under them.

use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::parameters::{HANDSHAKE_TIMEOUT, HTTP_1_1, provider};
use crate::stream::{Stream, UpstreamError};

/// Why the host's certificate authorities are not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// The host has none.
    #[error(
        "this host has no certificate authorities{}; install the package ca-certificates, or set SSL_CERT_FILE",
        .0.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
    )]
    NoAuthorities(Option<String>),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}; this is a bug in fumehood")]
    Tls(#[from] rustls::Error),
}

/// The certificate authorities that servers must be certified by. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Loads the authorities that this host trusts, from its own store or from `SSL_CERT_FILE`. It reads files, so load
    /// it once.
    ///
    /// # Errors
    /// Fails if there are no certificate authorities.
    pub(crate) fn of_host() -> Result<Self, TrustError> {
        let loaded = rustls_native_certs::load_native_certs();
        if loaded.certs.is_empty() {
            let reason = loaded.errors.first().map(ToString::to_string);
            return Err(TrustError::NoAuthorities(reason));
        }
        Self::new(loaded.certs)
    }

    /// Trusts only these authorities. Those that cannot be parsed are left out.
    ///
    /// # Errors
    /// Fails if none of them can be parsed.
    pub(crate) fn new(
        authorities: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(authorities);
        if added == 0 {
            return Err(TrustError::NoAuthorities(None));
        }

        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Opens TLS over `stream` with a server that must prove to be `host`.
    ///
    /// # Errors
    /// Fails if the server is not trusted, does not speak TLS, or takes longer than [`HANDSHAKE_TIMEOUT`].
    pub(crate) async fn connect<S: Stream>(
        &self,
        stream: S,
        host: &str,
    ) -> Result<TlsStream<S>, UpstreamError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| UpstreamError::Failed(io::Error::other(error)))?;
        let handshake = TlsConnector::from(Arc::clone(&self.0)).connect(name, stream);
        let finished = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
        finished
            .map_err(|_| UpstreamError::TimedOut(HANDSHAKE_TIMEOUT))?
            .map_err(classify_error)
    }
}

/// Distinguishes a server that is not trusted from one that cannot be reached.
fn classify_error(error: io::Error) -> UpstreamError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            UpstreamError::Untrusted(error.to_string())
        }
        _ => UpstreamError::Failed(error),
    }
}

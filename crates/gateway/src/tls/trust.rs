//! Whom this host trusts, and TLS with servers under that trust.

use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::parameters::{HANDSHAKE, PROTOCOL, provider};
use crate::stream::{Stream, Unreachable};

/// The host's certificate authorities are not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// None was found.
    #[error(
        "this host has no certificate authorities{}; install the package ca-certificates, or set SSL_CERT_FILE",
        .0.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
    )]
    Nobody(Option<String>),
    /// TLS cannot be set up.
    #[error("TLS could not be set up: {0}; this is a fault of fumehood")]
    Tls(#[from] rustls::Error),
}

/// Whom servers must be certified by. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Whom this host trusts, by its own store or by `SSL_CERT_FILE`. Reads files: to be loaded once.
    ///
    /// # Errors
    /// There are no certificate authorities.
    pub(crate) fn of_host() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why = found.errors.first().map(ToString::to_string);
            return Err(TrustError::Nobody(why));
        }
        Self::of(found.certs)
    }

    /// Trust in these authorities alone. Those that cannot be read are left out.
    ///
    /// # Errors
    /// None of them can be read.
    pub(crate) fn of(
        authorities: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(authorities);
        if added == 0 {
            return Err(TrustError::Nobody(None));
        }
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// TLS over `stream` with the server that must prove to be `host`.
    ///
    /// # Errors
    /// It proves nothing of the kind, speaks no TLS, or takes longer than [`HANDSHAKE`].
    pub(crate) async fn connect<S: Stream>(
        &self,
        stream: S,
        host: &str,
    ) -> Result<TlsStream<S>, Unreachable> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| Unreachable::Failed(io::Error::other(error)))?;
        let handshake = TlsConnector::from(Arc::clone(&self.0)).connect(name, stream);
        let done = tokio::time::timeout(HANDSHAKE, handshake).await;
        done.map_err(|_| Unreachable::Slow(HANDSHAKE))?
            .map_err(untrusted)
    }
}

/// Tells a server that proves nothing from one that cannot be reached.
fn untrusted(error: io::Error) -> Unreachable {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Unreachable::Untrusted(error.to_string())
        }
        _ => Unreachable::Failed(error),
    }
}

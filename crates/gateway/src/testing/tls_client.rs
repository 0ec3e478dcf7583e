//! A TLS client.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Returns the configuration of a client that trusts no authority.
pub(crate) fn tls_client(alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

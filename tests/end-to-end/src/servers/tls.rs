use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

/// Where the certificate of the test's authority is, which this host trusts in the test's namespace.
pub(crate) const AUTHORITY: &str = "SSL_CERT_FILE";

/// A certificate authority for the test's servers.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl CertificateAuthority {
    /// Makes an authority that this host trusts from now on, within the test's namespace.
    ///
    /// # Panics
    /// Panics outside of such a namespace.
    #[must_use]
    pub fn trusted() -> Self {
        let authority = Self::untrusted();
        let path = std::env::var_os(AUTHORITY).expect("a test in a network namespace");
        std::fs::write(path, &authority.pem).unwrap();
        authority
    }

    /// Makes an authority that this host does not trust.
    ///
    /// # Panics
    /// Panics if no keys can be made.
    #[must_use]
    pub fn untrusted() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "test servers");

        let pem = params.self_signed(&key).unwrap().pem();

        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Returns its certificate, for a guest to trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns a TLS acceptor with a certificate for these names.
    ///
    /// # Panics
    /// Panics if no certificate can be made.
    #[must_use]
    pub fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], key)
            .unwrap();

        TlsAcceptor::from(Arc::new(config))
    }
}

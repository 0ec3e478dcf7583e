//! The certificate authority of a sandbox. Its keys are only in this process's memory, for as long as the sandbox exists.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;

use super::parameters::{HTTP_1_1, provider};

/// The authority's name in certificates.
const NAME: &str = "fumehood sandbox";

/// Maximum number of cached certificates. A new one replaces the oldest.
pub(super) const MAX_CACHED_HOSTS: usize = 256;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long before now certificates become valid, for guests whose clock is behind.
const BACKDATED: Duration = DAY;

/// How long after now certificates expire: longer than any sandbox lives.
const VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Why the authority, or a certificate of it, cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The certificate cannot be made.
    #[error(
        "cannot create a certificate of the sandbox's authority: {0}; this is a bug in fumehood"
    )]
    Certificate(#[from] rcgen::Error),
    /// TLS does not accept the certificate.
    #[error("the sandbox's certificate is not usable: {0}; this is a bug in fumehood")]
    Tls(#[from] rustls::Error),
}

/// Issues the certificates by which the gateway answers in other hosts' names, for one sandbox.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// One key for the certificates of all hosts. It is kept with the authority's key, so separate ones would protect
    /// nothing.
    leaf_key: KeyPair,
    cache: Mutex<VecDeque<(String, Arc<ServerConfig>)>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(keys redacted)")
    }
}

impl Authority {
    /// Creates a new authority.
    ///
    /// # Errors
    /// Fails if a key or the certificate cannot be made.
    pub(crate) fn new() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = certificate_params(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, NAME);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
            leaf_key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            cache: Mutex::default(),
        })
    }

    /// Returns the authority's certificate, which the guest must trust, in PEM format.
    pub(crate) fn pem(&self) -> String {
        self.pem.clone()
    }

    /// Returns the TLS configuration for answering in the name of `host`.
    pub(super) fn server_config(&self, host: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = cache.iter().find(|(name, _)| name == host) {
            return Ok(Arc::clone(config));
        }

        let config = Arc::new(self.new_server_config(host)?);
        if cache.len() >= MAX_CACHED_HOSTS {
            cache.pop_front();
        }
        cache.push_back((host.to_owned(), Arc::clone(&config)));
        Ok(config)
    }

    fn new_server_config(&self, host: &str) -> Result<ServerConfig, AuthorityError> {
        let certificate = self.issue(host)?;
        let key = PrivateKeyDer::try_from(self.leaf_key.serialize_der())
            .map_err(|error| rustls::Error::General(error.to_owned()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        // Sessions are not resumed: they would be kept for each host.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn issue(&self, host: &str) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = certificate_params(vec![host.to_owned()])?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&self.leaf_key, &self.issuer)?.into())
    }

    /// Returns the number of cached certificates.
    #[cfg(test)]
    pub(super) fn cached_hosts(&self) -> usize {
        self.cache.lock().map_or(0, |cache| cache.len())
    }
}

fn certificate_params(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + VALIDITY).into();
    // The default contains the library's name.
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

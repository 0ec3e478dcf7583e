//! A sandbox's own certificate authority. Its keys exist in this process's memory only, for as long as the sandbox.

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

use super::parameters::{PROTOCOL, provider};

/// What the authority is called in certificates.
pub(crate) const NAME: &str = "fumehood sandbox";

/// Hosts whose certificates are kept. A guest that asks for more has the oldest made again.
pub(crate) const CACHE_HOSTS: usize = 256;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Certificates are valid from this long before now, for guests whose clock is behind.
const BACKDATED: Duration = DAY;

/// Certificates are valid until this long after now: longer than any sandbox lives.
const VALID: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The authority could not be made, or could not make a certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// A certificate could not be made.
    #[error(
        "a certificate of the sandbox's authority could not be made: {0}; this is a fault of fumehood"
    )]
    Certificate(#[from] rcgen::Error),
    /// TLS takes no such certificate.
    #[error("the sandbox's certificate is not usable: {0}; this is a fault of fumehood")]
    Tls(#[from] rustls::Error),
}

/// Makes the certificates by which this host answers in other hosts' names, for one sandbox.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// One key for all hosts: who has it has the authority's as well.
    leaf: KeyPair,
    made: Mutex<VecDeque<(String, Arc<ServerConfig>)>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(keys redacted)")
    }
}

impl Authority {
    /// A new authority, that nobody trusts yet.
    ///
    /// # Errors
    /// No key or certificate could be made.
    pub(crate) fn new() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = dated(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, NAME);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
            leaf: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            made: Mutex::default(),
        })
    }

    /// The authority's certificate, for the guest to trust, as PEM.
    pub(crate) fn pem(&self) -> String {
        self.pem.clone()
    }

    /// How TLS is spoken in the name of `host`.
    pub(super) fn server(&self, host: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = made.iter().find(|(name, _)| name == host) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.make(host)?);
        if made.len() >= CACHE_HOSTS {
            made.pop_front();
        }
        made.push_back((host.to_owned(), Arc::clone(&config)));
        Ok(config)
    }

    fn make(&self, host: &str) -> Result<ServerConfig, AuthorityError> {
        let certificate = self.issue(host)?;
        let key = PrivateKeyDer::try_from(self.leaf.serialize_der());
        let key = key.map_err(|error| rustls::Error::General(error.to_owned()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Nothing is resumed: sessions would be kept for each host.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn issue(&self, host: &str) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = dated(vec![host.to_owned()])?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&self.leaf, &self.issuer)?.into())
    }

    #[cfg(test)]
    pub(super) fn hosts(&self) -> usize {
        self.made.lock().map_or(0, |made| made.len())
    }
}

fn dated(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + VALID).into();
    // Without it, a certificate would bear the library's name.
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

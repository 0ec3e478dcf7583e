use std::fmt;
use std::sync::Arc;

use hyper::header::HeaderName;

use super::redactor::Needles;
use super::value::{SecretError, Value};

/// What placeholders begin with; 32 hexadecimal digits follow.
pub(crate) const PLACEHOLDER: &str = "fumehood-secret-";

/// One secret of one sandbox.
pub(crate) struct Secret {
    pub(super) name: String,
    pub(super) placeholder: String,
    pub(super) value: Value,
    pub(super) hosts: Vec<String>,
    pub(super) headers: Vec<HeaderName>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, {:?})", self.name, self.value)
    }
}

impl Secret {
    /// A secret for `hosts` (in small letters) in `headers`, under a new random placeholder.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn new(
        name: String,
        value: Value,
        hosts: Vec<String>,
        headers: Vec<HeaderName>,
    ) -> Result<Self, SecretError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| SecretError::Randomness)?;
        let digits = random.iter().map(|byte| format!("{byte:02x}"));
        Ok(Self {
            placeholder: format!("{PLACEHOLDER}{}", digits.collect::<String>()),
            name,
            value,
            hosts,
            headers,
        })
    }

    /// What the guest is given in place of the value.
    pub(crate) fn placeholder(&self) -> &str {
        &self.placeholder
    }

    pub(super) fn is_for(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own == host)
    }
}

/// All secrets of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(super) secrets: Vec<Secret>,
    needles: Vec<Arc<Needles>>,
}

impl Secrets {
    /// These secrets.
    pub(crate) fn new(secrets: Vec<Secret>) -> Self {
        let mut needles: Vec<Arc<Needles>> = Vec::new();
        let hosts = secrets.iter().flat_map(|secret| &secret.hosts);
        for host in hosts {
            if !needles.iter().any(|known| known.host() == host) {
                let here = secrets.iter().filter(|secret| secret.is_for(host));
                let pairs = here.map(|secret| (&secret.value, secret.placeholder()));
                needles.push(Arc::new(Needles::new(host, pairs)));
            }
        }
        Self { secrets, needles }
    }

    /// What must not come back from this host. None: no secret is for it.
    pub(crate) fn needles(&self, host: &str) -> Option<Arc<Needles>> {
        let found = self.needles.iter().find(|needles| needles.host() == host);
        found.map(Arc::clone)
    }
}

//! Secrets that the gateway holds and the guest does not: the guest has a placeholder, which becomes the value on
//! its way to the secret's own hosts, and on the way back the value becomes something else again.
//!
//! Only requests in TLS that ends here, to one of the secret's hosts, in one of its headers, get the value: as it is,
//! or within `Authorization: Basic`. Paths, bodies, other headers and plain HTTP never do.
//!
//! Bounds of the way back. The value is found as it is, and in base64 wherever it begins, up to the characters that
//! it shares with its neighbours: of 6 bits each, one at either end. It is not found when the server has compressed,
//! encrypted, escaped, split or otherwise changed it, nor when a client asks for it in pieces (`Range`). A server
//! that is sent a secret is trusted not to do so on a guest's behalf. Of a stream, what may be a value's beginning
//! is held until more comes: a WebSocket message that ends like that is late.

mod place;
mod redact;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use hyper::header::HeaderName;

pub(crate) use redact::{Needles, Redactor};
pub(crate) use value::{SecretError, Value};

/// What placeholders begin with; 32 hexadecimal digits follow.
pub(crate) const PLACEHOLDER: &str = "fumehood-secret-";

/// One secret of one sandbox.
pub(crate) struct Secret {
    name: String,
    placeholder: String,
    value: Value,
    hosts: Vec<String>,
    headers: Vec<HeaderName>,
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

    fn is_for(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own == host)
    }
}

/// All secrets of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    secrets: Vec<Secret>,
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

//! The secrets of a sandbox.

use std::fmt;
use std::sync::Arc;

use hyper::header::HeaderName;

use super::redactor::SecretMatcher;
use super::value::{SecretError, SecretText};

/// The prefix of placeholders; 32 hexadecimal digits follow.
pub(super) const PLACEHOLDER_PREFIX: &str = "fumehood-secret-";

/// One secret of a sandbox.
pub(crate) struct Secret {
    pub(super) name: String,
    pub(super) placeholder: String,
    /// None if the guest has a placeholder from an earlier gateway, and this one was not given the value.
    pub(super) value: Option<SecretText>,
    pub(super) hosts: Vec<String>,
    pub(super) headers: Vec<HeaderName>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, {:?})", self.name, self.value)
    }
}

impl Secret {
    /// Creates a secret for `hosts` (in lowercase) in `headers`, with a new random placeholder.
    ///
    /// # Errors
    /// Fails if the system provides no random numbers.
    #[cfg(test)]
    pub(crate) fn new(
        name: String,
        value: SecretText,
        hosts: Vec<String>,
        headers: Vec<HeaderName>,
    ) -> Result<Self, SecretError> {
        let placeholder = new_placeholder()?;
        Ok(Self {
            name,
            placeholder,
            value: Some(value),
            hosts,
            headers,
        })
    }

    /// Creates a secret whose placeholder the guest has already. Without a value, requests with it are refused.
    pub(super) fn restored(
        name: String,
        placeholder: String,
        value: Option<SecretText>,
        hosts: Vec<String>,
        headers: Vec<HeaderName>,
    ) -> Self {
        Self {
            name,
            placeholder,
            value,
            hosts,
            headers,
        }
    }

    /// Returns the placeholder, which the guest receives instead of the value.
    pub(crate) fn placeholder(&self) -> &str {
        &self.placeholder
    }

    pub(super) fn is_for(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own == host)
    }
}

/// Creates a random placeholder.
pub(super) fn new_placeholder() -> Result<String, SecretError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| SecretError::Randomness)?;
    let digits = random.iter().map(|byte| format!("{byte:02x}"));
    Ok(format!(
        "{PLACEHOLDER_PREFIX}{}",
        digits.collect::<String>()
    ))
}

/// Returns whether a text, which comes from a file, is a placeholder.
pub(super) fn is_placeholder(text: &str) -> bool {
    let digits = text.strip_prefix(PLACEHOLDER_PREFIX);
    digits.is_some_and(|digits| {
        digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// All secrets of a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(super) secrets: Vec<Secret>,
    /// One matcher for each host, with the values of all secrets for it.
    matchers: Vec<Arc<SecretMatcher>>,
}

impl Secrets {
    pub(crate) fn new(secrets: Vec<Secret>) -> Self {
        let mut matchers: Vec<Arc<SecretMatcher>> = Vec::new();
        let hosts = secrets.iter().flat_map(|secret| &secret.hosts);
        for host in hosts {
            if !matchers.iter().any(|matcher| matcher.host() == host) {
                let for_host = secrets.iter().filter(|secret| secret.is_for(host));
                let values = for_host.filter_map(|secret| secret.value.as_ref());
                matchers.push(Arc::new(SecretMatcher::new(host, values)));
            }
        }
        Self { secrets, matchers }
    }

    /// Returns the matcher of the values that must not come back from this host; `None` if no secret is for it.
    pub(crate) fn matcher_for(&self, host: &str) -> Option<Arc<SecretMatcher>> {
        let found = self.matchers.iter().find(|matcher| matcher.host() == host);
        found.map(Arc::clone)
    }
}

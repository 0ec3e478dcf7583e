//! Everything that a guest's gateway holds and the guest does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::header::HeaderName;

use super::secrets::{Secret, Secrets, is_placeholder, new_placeholder};
use super::value::{SecretError, SecretText};
use crate::policy::{Policy, SecretName};
use crate::tls::{Authority, AuthorityError};

/// Holds the values of a guest's secrets, and the keys of the certificate authority that TLS is terminated with. The guest
/// has neither.
///
/// Cheap to clone. Sandboxes that start from one saved state share it, because their guests hold the same placeholders
/// and trust the same authority.
#[derive(Debug, Clone, Default)]
pub struct Vault(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    secrets: Arc<Secrets>,
    /// The names of the secrets with their placeholders.
    placeholders: Vec<(String, String)>,
    authority: Option<Authority>,
}

/// The value of a secret: 8 to 8,192 visible ASCII characters, with spaces only inside. `Debug` does not show it.
#[derive(Debug, Clone)]
pub struct SecretValue(SecretText);

impl SecretValue {
    /// Takes a value.
    ///
    /// # Errors
    /// Fails if the value is too short or too long, or if a header cannot carry it.
    pub fn new(value: String) -> Result<Self, VaultError> {
        Ok(Self(SecretText::new(value)?))
    }
}

/// Why a vault cannot be made. The message contains no value.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct VaultError(#[from] Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the policy's secret `{0}` has no value; provide one")]
    NoValue(SecretName),
    #[error("the policy has no secret `{0}`; add [[secret]] name = \"{0}\" with its host")]
    NoSecret(SecretName),
    #[error("`{0}` is not a valid header name")]
    Header(String),
    #[error(transparent)]
    Value(#[from] SecretError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl From<SecretError> for VaultError {
    fn from(error: SecretError) -> Self {
        Self(error.into())
    }
}

impl Vault {
    /// Creates the vault of a guest with this policy, from the values of the policy's secrets.
    ///
    /// # Errors
    /// Fails if a secret of the policy has no value, if a value has no secret in the policy, or if no keys can be
    /// generated.
    pub fn new(
        policy: &Policy,
        values: BTreeMap<SecretName, SecretValue>,
    ) -> Result<Self, VaultError> {
        if let Some(rule) = policy
            .secrets
            .iter()
            .find(|rule| !values.contains_key(&rule.name))
        {
            return Err(Cause::NoValue(rule.name.clone()).into());
        }
        Self::restore(policy, values, &BTreeMap::new())
    }

    /// Creates the vault of a guest that was resumed and has `placeholders`, by the names of the secrets. They stay valid
    /// for the new values. Requests with a placeholder whose secret has no value are refused with an explanation. The keys
    /// are new.
    ///
    /// # Errors
    /// As [`new`](Self::new), except that a secret may be without value.
    pub fn restore(
        policy: &Policy,
        mut values: BTreeMap<SecretName, SecretValue>,
        placeholders: &BTreeMap<String, String>,
    ) -> Result<Self, VaultError> {
        let mut known = placeholders.clone();
        known.retain(|_, placeholder| is_placeholder(placeholder));

        // Match the policy's secrets with the values and placeholders.
        let mut secrets = Vec::with_capacity(policy.secrets.len());
        for rule in &policy.secrets {
            let hosts = rule.hosts.iter().map(ToString::to_string).collect();
            let headers = rule.headers.iter().map(|header| {
                let name = header.to_string();
                HeaderName::try_from(&name).map_err(|_| Cause::Header(name))
            });
            let headers = headers.collect::<Result<_, _>>()?;

            let (name, value) = (rule.name.to_string(), values.remove(&rule.name));
            let placeholder = match known.remove(&name) {
                Some(placeholder) => placeholder,
                None => new_placeholder()?,
            };
            let value = value.map(|value| value.0);
            secrets.push(Secret::restored(name, placeholder, value, hosts, headers));
        }
        if let Some(name) = values.into_keys().next() {
            return Err(Cause::NoSecret(name).into());
        }

        // The guest gets variables for all secrets that it had or has.
        let forgotten = known.into_iter().map(|(name, placeholder)| {
            Secret::restored(name, placeholder, None, Vec::new(), Vec::new())
        });
        secrets.extend(forgotten);
        let placeholders = secrets
            .iter()
            .map(|secret| (secret.name.clone(), secret.placeholder().to_owned()));
        let placeholders = placeholders.collect();

        // Keys are only generated if TLS is terminated for some host.
        let terminates_tls =
            policy.rules.iter().any(|rule| rule.terminate) || !policy.secrets.is_empty();
        let authority = if terminates_tls {
            Some(Authority::new().map_err(Cause::from)?)
        } else {
            None
        };

        Ok(Self(Arc::new(Inner {
            secrets: Arc::new(Secrets::new(secrets)),
            placeholders,
            authority,
        })))
    }

    /// Returns the certificate that the guest must trust, in PEM format; `None` if TLS is never terminated.
    #[must_use]
    pub fn certificate(&self) -> Option<String> {
        self.0.authority.as_ref().map(Authority::pem)
    }

    /// Returns environment variables for the guest's programs: the name of each secret, and its placeholder.
    #[must_use]
    pub fn environment(&self) -> &[(String, String)] {
        &self.0.placeholders
    }

    pub(crate) fn authority(&self) -> Option<&Authority> {
        self.0.authority.as_ref()
    }

    pub(crate) fn secrets(&self) -> Arc<Secrets> {
        self.0.secrets.clone()
    }
}

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::header::HeaderName;

use super::secrets::{Secret, Secrets};
use super::value::{SecretError, Value};
use crate::policy::{Policy, SecretName};
use crate::tls::{Authority, AuthorityError};

/// What a guest's gateway knows and the guest does not: the values of its secrets, and the keys of the authority
/// in whose name TLS to some hosts ends here. Cheap to clone; sandboxes that begin from one state share it, since
/// their guests hold the same placeholders and trust the same authority.
#[derive(Debug, Clone, Default)]
pub struct Vault(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    secrets: Arc<Secrets>,
    placeholders: Vec<(String, String)>,
    authority: Option<Authority>,
}

/// The value of a secret: 8 to 8,192 visible characters of ASCII. It shows itself nowhere.
#[derive(Debug, Clone)]
pub struct SecretValue(Value);

impl SecretValue {
    /// Takes a value.
    ///
    /// # Errors
    /// It is too short, too long, or nothing for a header.
    pub fn new(value: String) -> Result<Self, VaultError> {
        Ok(Self(Value::new(value)?))
    }
}

/// Why there is no vault. Says nothing of any value.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct VaultError(#[from] Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the secret `{0}` of the policy has no value; give it one")]
    NoValue(SecretName),
    #[error("there is no secret `{0}` in the policy; add [[secret]] name = \"{0}\" with its host")]
    NoSecret(SecretName),
    #[error("`{0}` is no header's name")]
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
    /// The vault of a guest with this policy, and the values of its secrets.
    ///
    /// # Errors
    /// A secret of the policy has no value, or a value has no secret; no keys can be made.
    pub fn new(
        policy: &Policy,
        mut values: BTreeMap<SecretName, SecretValue>,
    ) -> Result<Self, VaultError> {
        let mut secrets = Vec::with_capacity(policy.secrets.len());
        for rule in &policy.secrets {
            let value = values.remove(&rule.name);
            let value = value.ok_or_else(|| Cause::NoValue(rule.name.clone()))?;
            let hosts = rule.hosts.iter().map(ToString::to_string).collect();
            let headers = rule.headers.iter().map(|header| {
                let name = header.to_string();
                HeaderName::try_from(&name).map_err(|_| Cause::Header(name))
            });
            let headers = headers.collect::<Result<_, _>>()?;
            secrets.push(Secret::new(rule.name.to_string(), value.0, hosts, headers)?);
        }
        if let Some(name) = values.into_keys().next() {
            return Err(Cause::NoSecret(name).into());
        }
        let names = policy.secrets.iter().map(|rule| rule.name.to_string());
        let placeholders = secrets
            .iter()
            .map(|secret| secret.placeholder().to_string());
        let placeholders = names.zip(placeholders).collect();
        let terminates = policy.rules.iter().any(|rule| rule.terminate) || !secrets.is_empty();
        let authority = match terminates {
            true => Some(Authority::new().map_err(Cause::from)?),
            false => None,
        };
        Ok(Self(Arc::new(Inner {
            secrets: Arc::new(Secrets::new(secrets)),
            placeholders,
            authority,
        })))
    }

    /// The certificate that the guest is to trust, in PEM; none: no TLS ends here.
    #[must_use]
    pub fn certificate(&self) -> Option<String> {
        self.0.authority.as_ref().map(Authority::pem)
    }

    /// Variables for the guest's programs: each secret's name, and what stands for its value.
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

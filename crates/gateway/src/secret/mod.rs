//! Secrets that the gateway holds and the guest does not.
//!
//! The guest has a placeholder. On its way to the secret's hosts the placeholder is replaced by the value, and on the
//! way back the value is redacted.
//!
//! Only requests in terminated TLS, to one of the secret's hosts, in one of its headers, get the value: literally, or
//! within `Authorization: Basic`. Paths, bodies, other headers and plain HTTP never do.
//!
//! Redaction has limits. The value is found literally, and in base64 at any offset, up to the characters that it shares
//! with its neighbors: 6 bits each, one at either end. It is not found if the server has encrypted, escaped, split or
//! otherwise changed it. A server that receives a secret is trusted not to do so on a guest's behalf. Answers that are
//! compressed are refused, and parts of answers are not requested.

mod vault;
mod substitute;
mod secrets;
mod redactor;
mod patterns;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use redactor::{Redactor, SecretMatcher};
#[cfg(test)]
pub(crate) use secrets::Secret;
pub(crate) use secrets::Secrets;
#[cfg(test)]
pub(crate) use value::SecretText;
pub use vault::{SecretValue, Vault, VaultError};

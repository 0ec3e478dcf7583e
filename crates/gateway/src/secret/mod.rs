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

mod redactor;
mod secrets;
mod substitute;
mod value;
mod vault;

#[cfg(test)]
mod tests;

pub(crate) use redactor::{Needles, Redactor};
#[cfg(test)]
pub(crate) use secrets::Secret;
pub(crate) use secrets::Secrets;
#[cfg(test)]
pub(crate) use value::Value;
pub use vault::{SecretValue, Vault, VaultError};

//! The guest's only network: a userspace TCP/IP peer on the host, with one policy decision function.

pub mod policy;

mod budget;
mod dns;
mod event;
mod flow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod hello;
mod http;
mod link;
mod refusal;
mod secret;
mod stack;
mod stream;
#[cfg(test)]
mod testing;
mod tls;
mod vault;

pub use event::{Denial, Event, NetworkAction, Summary};
pub use gateway::{Connections, Gateway, GatewayConfig, GatewayError};
pub use link::{Endpoint, LinkAddresses};
pub use vault::{SecretValue, Vault, VaultError};

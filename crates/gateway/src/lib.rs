//! The guest's only network: a userspace TCP/IP peer on the host, with one policy decision function.
//!
//! A [`Gateway`] reads the guest's frames, answers its DNS queries, and connects it to the destinations that its
//! [`policy`] allows. It knows no VM, only the other end of a socket.
//!
//! The modules below are in layer order: each may import only from modules after it.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod flow;
mod http;
mod dns;
mod secret;
mod events;
mod stack;
mod tls;
mod refusal;
mod metering;
pub mod policy;
mod package_index;
mod stream;
mod value;
#[cfg(test)]
mod testing;
mod link;

pub use events::{Denial, Event, NetworkAction, Summary};
pub use gateway::{Connections, Gateway, GatewayConfig, GatewayError};
pub use link::{Endpoint, LinkAddresses};
pub use metering::ConnectionBudget;
pub use secret::{SecretValue, Vault, VaultError};

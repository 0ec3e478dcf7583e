//! A guest's gateway: what starts it, and what it does for as long as the guest is there.

mod config;
mod exposed_port;
mod handle;
mod serve;

#[cfg(test)]
mod tests;

pub use config::{Connections, GatewayConfig};
pub use handle::{Gateway, GatewayError};

//! A guest's gateway: its configuration, its handle, and the tasks that run while the guest exists.
//!
//! The tasks connect the layers below: they drive the stack, and start a flow for each connection and a lookup for each
//! DNS query. Decisions and protocols are not made here.

mod config;
mod exposed_port;
mod handle;
mod serve;

#[cfg(test)]
mod tests;

pub use config::{Connections, GatewayConfig};
pub use handle::{Gateway, GatewayError};

//! A guest's network as the engine configures it: policy, secrets, exposed ports, and the gateway in use.
//!
//! Packets, name service and the policy itself belong to the gateway crate.

mod config;
mod outcome;
mod uplink;

pub(crate) use config::Prepared;
pub use config::{Network, PortMapping};
pub use outcome::NetworkOutcome;
pub(crate) use uplink::{Saved, Served, Uplink};

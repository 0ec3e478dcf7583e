//! The network of a guest as the engine configures it: policy, secrets, exposed ports, and the gateway in use.
//!
//! Packets, name service and the evaluation of policies belong to the gateway crate.

mod config;
mod outcome;
mod uplink;

pub(crate) use config::PreparedNetwork;
pub use config::{Network, PortMapping};
pub use outcome::NetworkOutcome;
pub(crate) use uplink::{ActiveNetwork, SavedNetwork, Uplink};

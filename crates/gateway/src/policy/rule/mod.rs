//! The rules and limits of a policy, and the addresses that a rule must name.
//!
//! How rules are written is in `document`, and how they are evaluated in `decision`.

mod definition;
mod limits;
mod special_address;

pub(crate) use definition::INTERNET;
pub use definition::{Policy, Rule, SecretRule};
pub use limits::{LimitsError, MAX_CONNECTIONS, MIN_BYTES_PER_S, NetworkLimits};
#[cfg(test)]
pub(super) use special_address::special_range;
pub(super) use special_address::{addresses_to_name, are_open};
pub use special_address::{names_special, special};

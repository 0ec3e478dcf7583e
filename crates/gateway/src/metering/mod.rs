//! Rates and byte budgets of a guest.
//!
//! The limits themselves are part of the policy; what happens when one is reached is decided by `flow` and `dns`.

mod budget;
mod connection_budget;
mod metered_stream;
mod rate;

pub(crate) use budget::Budget;
pub use connection_budget::ConnectionBudget;
pub(crate) use connection_budget::ConnectionsExhausted;
pub(crate) use metered_stream::{ByteCounter, MeteredStream};
pub(crate) use rate::Rate;

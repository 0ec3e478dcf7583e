//! Rates and byte budgets of one guest.

mod budget;
mod metered;
mod rate;

pub(crate) use budget::Budget;
pub(crate) use metered::{Count, Metered};
pub(crate) use rate::Rate;

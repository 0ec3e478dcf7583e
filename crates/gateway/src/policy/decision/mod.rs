//! The decision function, its queries and its results.
//!
//! Everything here is pure: a decision depends only on the policy and the query.

mod explain;
mod decide;
mod wording;
mod outcome;
mod query;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upgrade_tests;

pub use decide::decide;
pub use explain::{Explanation, Scheme, Step, Target, TargetError, explain};
pub use outcome::{Decision, Handling, Reason, Subject, Verdict};
pub use query::{ClientProtocol, PolicyQuery};

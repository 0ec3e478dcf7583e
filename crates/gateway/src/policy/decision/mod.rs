//! The one function that decides, what it is asked and what it answers, and its answers in words.

mod decide;
mod explain;
mod outcome;
mod query;
mod wording;

#[cfg(test)]
mod tests;

pub use decide::decide;
pub use explain::{Explanation, Scheme, Step, Target, TargetError, explain};
pub use outcome::{Decision, Pass, Reason, Subject, Verdict};
pub use query::{Question, Said};

//! How a check ends other than well.

/// The result of a check.
pub(crate) type Check<T = ()> = Result<T, Fault>;

/// Why a check did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The agent violates the clause.
    Failed(String),
    /// The agent does not offer the feature of the clause, or this run cannot test it.
    NotOffered(String),
}

/// Returns from a check: the clause is violated.
macro_rules! fail {
    ($($format:tt)*) => {
        return Err($crate::client::Fault::Failed(format!($($format)*)))
    };
}

/// Returns from a check, as violated, unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($format:tt)*) => {
        if !$condition {
            $crate::client::fail!($($format)*);
        }
    };
}

/// Returns from a check: it does not apply.
macro_rules! not_offered {
    ($($format:tt)*) => {
        return Err($crate::client::Fault::NotOffered(format!($($format)*)))
    };
}

pub(crate) use {ensure, fail, not_offered};

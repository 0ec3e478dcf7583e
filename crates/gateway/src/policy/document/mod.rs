//! Policies as they are written, in TOML, JSON or words of a command line, and their conversion to rules.
//!
//! Decisions do not belong here.

mod compile;
mod error;
mod format;
mod rule_spec;

#[cfg(test)]
mod tests;

pub use error::{DocumentError, MAX_DOCUMENT_BYTES, MAX_RULES, MAX_SECRETS};
pub use format::{Document, SecretEntry};
pub use rule_spec::{MAX_RULE_ITEMS, RuleSpec, RuleSpecError};

use serde::{Deserialize, Serialize};

use crate::error::{ErrorType, WireError};
use crate::limits::Limits;

/// The name of a context: letters, digits, `.`, `_` and `-`, at most `context_name_bytes` of them, other than `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ContextName(String);

impl ContextName {
    /// Wraps a name. Call [`ContextName::check`] before using it.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Validates the name.
    ///
    /// # Errors
    /// `request_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let reject = |message: String| Err(WireError::new(ErrorType::RequestError, message));

        let bytes = self.0.len() as u64;
        let max = limits.context_name_bytes;
        if !(1..=max).contains(&bytes) {
            return reject(format!(
                "field `context`: the name has {bytes} bytes; 1 to {max} are allowed"
            ));
        }

        // As part of a path these would name something else.
        if matches!(self.0.as_str(), "." | "..") {
            return reject(format!(
                "field `context`: `{}` is not allowed as a name; use at least one letter, digit, `_` or `-`",
                self.0
            ));
        }

        let is_invalid = |c: &char| !c.is_ascii_alphanumeric() && !"._-".contains(*c);
        match self.0.chars().find(is_invalid) {
            None => Ok(()),
            Some(c) => reject(format!(
                "field `context`: `{}` is not allowed in a name; use letters, digits, `.`, `_` and `-`",
                c.escape_default()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> Result<(), String> {
        ContextName::new(name)
            .check(&Limits::default())
            .map_err(|e| e.message)
    }

    #[test]
    fn names_at_the_limit_and_past_it() {
        assert!(check("a").is_ok() && check(&"x".repeat(64)).is_ok() && check("A.b_c-9").is_ok());
        assert!(check("").unwrap_err().contains('0'));
        assert!(check(&"x".repeat(65)).unwrap_err().contains("65"));
        assert!(check("...").is_ok() && check("..a").is_ok());
        for name in ["a b", "a/b", "ä", "a\n", ".", ".."] {
            assert!(check(name).unwrap_err().contains("not allowed"), "{name}");
        }
    }
}

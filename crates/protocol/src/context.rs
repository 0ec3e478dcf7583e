use serde::{Deserialize, Serialize};

use crate::{ErrorType, Limits, WireError};

/// The name of a context: letters, digits, `.`, `_` and `-`, at most `context_name_bytes` of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ContextName(String);

impl ContextName {
    /// A name, to be checked by [`ContextName::check`] before it is used.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Refuses what is no name.
    ///
    /// # Errors
    /// `request_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let refuse = |message: String| Err(WireError::new(ErrorType::RequestError, message));
        let bytes = self.0.len() as u64;
        if !(1..=limits.context_name_bytes).contains(&bytes) {
            let most = limits.context_name_bytes;
            return refuse(format!(
                "field `context`: a name of {bytes} bytes; 1 to {most} are allowed"
            ));
        }
        let odd = |c: &char| !c.is_ascii_alphanumeric() && !"._-".contains(*c);
        match self.0.chars().find(odd) {
            None => Ok(()),
            Some(c) => refuse(format!(
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
        for name in ["a b", "a/b", "ä", "a\n"] {
            assert!(check(name).unwrap_err().contains("not allowed"), "{name}");
        }
    }
}

use serde::{Deserialize, Serialize};

use crate::error::{ErrorType, WireError};
use crate::limits::Limits;

/// Identifies one operation permanently: a request that repeats the key attaches to that operation and
/// never starts a second one.
///
/// Printable ASCII without spaces, 1 to `key_bytes` bytes; a random UUID is a good choice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Wraps a key. Call [`IdempotencyKey::check`] before using it.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// Returns the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Validates the key.
    ///
    /// # Errors
    /// `request_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let reject = |message: String| Err(WireError::new(ErrorType::RequestError, message));

        let (bytes, max) = (self.0.len() as u64, limits.key_bytes);
        if !(1..=max).contains(&bytes) {
            return reject(format!(
                "field `idempotency_key`: the key has {bytes} bytes; 1 to {max} are allowed"
            ));
        }

        match self.0.chars().find(|c| !c.is_ascii_graphic()) {
            None => Ok(()),
            Some(c) => reject(format!(
                "field `idempotency_key`: `{}` is not allowed; use printable ASCII without spaces",
                c.escape_default()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_at_the_limit_and_past_it() {
        let check = |key: String| IdempotencyKey::new(key).check(&Limits::default());
        assert!(check("a".into()).is_ok() && check("~".repeat(128)).is_ok());
        assert!(check(String::new()).is_err());
        assert!(check("x".repeat(129)).unwrap_err().message.contains("129"));

        for invalid in ["a b", "ä", "a\n"] {
            assert!(
                check(invalid.into())
                    .unwrap_err()
                    .message
                    .contains("not allowed")
            );
        }
    }
}

use serde::{Deserialize, Serialize};

use crate::{ErrorType, Limits, WireError};

/// Names one operation for ever: whoever sends it again gets that operation, and never a second one.
///
/// Printable ASCII without spaces, 1 to `key_bytes` bytes; a random UUID suits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// A key, to be checked by [`IdempotencyKey::check`] before it is used.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Refuses what is no key.
    ///
    /// # Errors
    /// `request_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let refuse = |message: String| Err(WireError::new(ErrorType::RequestError, message));
        let (bytes, most) = (self.0.len() as u64, limits.key_bytes);
        if !(1..=most).contains(&bytes) {
            return refuse(format!(
                "field `idempotency_key`: a key of {bytes} bytes; 1 to {most} are allowed"
            ));
        }
        match self.0.chars().find(|c| !c.is_ascii_graphic()) {
            None => Ok(()),
            Some(c) => refuse(format!(
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
        for odd in ["a b", "ä", "a\n"] {
            assert!(
                check(odd.into())
                    .unwrap_err()
                    .message
                    .contains("not allowed")
            );
        }
    }
}

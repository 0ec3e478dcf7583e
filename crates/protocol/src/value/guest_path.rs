use serde::{Deserialize, Serialize};

use crate::error::{ErrorType, WireError};
use crate::limits::Limits;

/// A path in the guest: absolute, or relative to the home of the user that programs run as.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct GuestPath(String);

impl GuestPath {
    /// Wraps a path. Call [`GuestPath::check`] before using it.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// Returns the path as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Validates the path.
    ///
    /// # Errors
    /// `path_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let reject = |message: String| Err(WireError::new(ErrorType::PathError, message));

        let bytes = self.0.len() as u64;
        let max = limits.path_bytes;
        if !(1..=max).contains(&bytes) {
            return reject(format!(
                "the path has {bytes} bytes; 1 to {max} are allowed"
            ));
        }

        match self.0.bytes().position(|byte| byte == 0) {
            None => Ok(()),
            Some(at) => reject(format!(
                "the path contains a NUL character at byte {at}; no file name can contain one"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_at_the_limit_and_past_it() {
        let check = |path: String| GuestPath::new(path).check(&Limits::default());
        assert!(check("a".into()).is_ok() && check("x".repeat(4095)).is_ok());
        assert!(check("/a b/ä/../\n".into()).is_ok());
        assert!(
            check("x".repeat(4096))
                .unwrap_err()
                .message
                .contains("4096")
        );
        assert!(check(String::new()).unwrap_err().message.contains('0'));
        assert!(check("a\0".into()).unwrap_err().message.contains("byte 1"));
    }
}

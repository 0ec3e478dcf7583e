use serde::{Deserialize, Serialize};

use crate::{ErrorType, Limits, WireError};

/// A path in the guest: absolute, or relative to the home of the user that programs run as.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct GuestPath(String);

impl GuestPath {
    /// A path, to be checked by [`GuestPath::check`] before it is used.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// The path as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Refuses what is no path.
    ///
    /// # Errors
    /// `path_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let refuse = |message: String| Err(WireError::new(ErrorType::PathError, message));
        let bytes = self.0.len() as u64;
        if !(1..=limits.path_bytes).contains(&bytes) {
            let most = limits.path_bytes;
            return refuse(format!("a path of {bytes} bytes; 1 to {most} are allowed"));
        }
        match self.0.bytes().position(|byte| byte == 0) {
            None => Ok(()),
            Some(at) => refuse(format!(
                "a path with a NUL character at byte {at}; no file has one in its name"
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

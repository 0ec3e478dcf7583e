//! Names that callers give to objects.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// The maximum length of a name, in characters.
const MAX_CHARS: usize = 64;

/// The prefixes of ids. A name must not look like one.
const ID_PREFIXES: [&str; 3] = ["sb_", "cp_", "run_"];

/// The name of a sandbox, which may be used in place of its id.
///
/// It has 1 to 64 ASCII letters, digits, `.`, `_` and `-`, starts with a letter or a digit, and does not look like an id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(Box<str>);

impl ObjectName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let has_start = text.starts_with(|c: char| c.is_ascii_alphanumeric());

        if !has_start || text.len() > MAX_CHARS || !text.chars().all(is_allowed) {
            return Err(ApiError::invalid(format!(
                "a name has 1 to {MAX_CHARS} characters: letters, digits, `.`, `_` and `-`, and starts with a letter or a digit"
            )));
        }

        if let Some(prefix) = ID_PREFIXES.iter().find(|prefix| text.starts_with(**prefix)) {
            let message = format!("a name must not start with `{prefix}`, as an id does");
            return Err(ApiError::invalid(message));
        }

        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for ObjectName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: ApiError| error.message)
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_their_limits() {
        let longest = "x".repeat(MAX_CHARS);
        for valid in ["a", "7", "My.box_1-b", "sb", "sb-1", &longest] {
            assert!(valid.parse::<ObjectName>().is_ok(), "{valid}");
        }

        let too_long = "x".repeat(MAX_CHARS + 1);
        for wrong in [
            "", ".", "..", "-x", "_x", "a b", "a/b", "é", "a\n", "sb_1", "cp_x", "run_", &too_long,
        ] {
            assert!(wrong.parse::<ObjectName>().is_err(), "{wrong}");
        }
    }
}

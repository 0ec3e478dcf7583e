//! Identifiers of saved states.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::artifact_cache::is_digest;
use crate::hash;

/// Identifies a saved state in a store: 64 random hexadecimal digits, which cannot be guessed.
///
/// ```
/// use fumehood_image::StateId;
///
/// let id = StateId::random()?;
/// assert_eq!(id.to_string().parse::<StateId>()?, id);
/// assert!("../etc".parse::<StateId>().is_err());
/// # Ok::<(), fumehood_image::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StateId(String);

impl StateId {
    /// Creates a new identifier.
    ///
    /// # Errors
    /// [`Error::Io`] if this host provides no randomness.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            Error::io("read", "the host's randomness")(std::io::Error::other(error))
        })?;
        Ok(Self(hash::hex(&bytes)))
    }

    /// Returns the digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StateId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if is_digest(text) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(Error::Option {
            option: format!("id of a saved state `{shown}`"),
            reason: "it has 64 hexadecimal digits in lowercase",
        })
    }
}

impl TryFrom<String> for StateId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<StateId> for String {
    fn from(id: StateId) -> Self {
        id.0
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! A secret's value, which shows itself nowhere.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes of the shortest value. A shorter one is found in any text by chance, and taking it out would spoil the text.
pub(crate) const SHORTEST: usize = 8;

/// Bytes of the longest value: what servers commonly take in one header.
pub(crate) const LONGEST: usize = 8192;

/// A secret is not usable. Says nothing of the value but its length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretError {
    /// Too short.
    #[error(
        "the secret has {0} bytes, at least {SHORTEST} are needed, so that it can be told from other text; use a longer one"
    )]
    Short(usize),
    /// Too long.
    #[error("the secret has {0} bytes, at most {LONGEST} fit in a header; use a shorter one")]
    Long(usize),
    /// Not for a header.
    #[error(
        "the secret holds a character that no header can carry; visible ASCII, and spaces inside, are allowed: \
         is there a line's end after it?"
    )]
    Characters,
    /// No placeholder could be made.
    #[error("the system gave no random bytes for a secret's placeholder; try again")]
    Randomness,
}

/// The value itself: forgotten when dropped, and never shown.
#[derive(Clone)]
pub(crate) struct Value(Zeroizing<String>);

impl Value {
    /// Takes a value that a header can hold.
    ///
    /// # Errors
    /// Its length or its characters are out of bounds.
    pub(crate) fn new(value: String) -> Result<Self, SecretError> {
        let value = Zeroizing::new(value);
        let visible = |byte| matches!(byte, b' '..=b'~');
        match value.len() {
            length if length < SHORTEST => Err(SecretError::Short(length)),
            length if length > LONGEST => Err(SecretError::Long(length)),
            _ if !value.bytes().all(visible) || value.trim().len() != value.len() => {
                Err(SecretError::Characters)
            }
            _ => Ok(Self(value)),
        }
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

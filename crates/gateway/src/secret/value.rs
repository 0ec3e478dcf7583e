//! The value of a secret, which is never shown.

use std::fmt;

use zeroize::Zeroizing;

/// Minimum length of a value, in bytes. A shorter one occurs in any text by chance, and redacting it would spoil the
/// text.
pub(super) const MIN_VALUE_BYTES: usize = 8;

/// Maximum length of a value, in bytes: what servers commonly accept in one header.
pub(super) const MAX_VALUE_BYTES: usize = 8192;

/// Why a secret is not usable. The messages reveal nothing about the value but its length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretError {
    /// The value is too short.
    #[error(
        "the secret has {0} bytes; it needs at least {MIN_VALUE_BYTES}, so that it does not occur in other text by chance"
    )]
    TooShort(usize),
    /// The value is too long.
    #[error("the secret has {0} bytes; at most {MAX_VALUE_BYTES} fit into a header")]
    TooLong(usize),
    /// The value cannot be sent in a header.
    #[error(
        "the secret contains a character that no header can carry; only visible ASCII, and spaces inside, are allowed. \
         Check for a newline at its end"
    )]
    InvalidCharacters,
    /// No placeholder can be made.
    #[error("cannot read random numbers for the placeholder of a secret; try again")]
    Randomness,
}

/// The value of a secret. It is wiped from memory when dropped, and never shown.
#[derive(Clone)]
pub(crate) struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes a value that a header can carry.
    ///
    /// # Errors
    /// Fails if its length or its characters are out of bounds.
    pub(crate) fn new(value: String) -> Result<Self, SecretError> {
        let value = Zeroizing::new(value);
        let is_visible = |byte| matches!(byte, b' '..=b'~');
        match value.len() {
            length if length < MIN_VALUE_BYTES => Err(SecretError::TooShort(length)),
            length if length > MAX_VALUE_BYTES => Err(SecretError::TooLong(length)),
            _ if !value.bytes().all(is_visible) || value.trim().len() != value.len() => {
                Err(SecretError::InvalidCharacters)
            }
            _ => Ok(Self(value)),
        }
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

impl fmt::Display for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

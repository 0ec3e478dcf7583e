//! Identifiers: names of rules, methods, secrets and headers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::serde_by_text::serde_by_text;

/// A text is not a valid identifier of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a valid {what}: {rule}")]
pub struct IdentifierError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// Maximum number of characters of an invalid text that its error repeats.
const SHOWN_CHARS: usize = 80;

/// Defines a type for texts that pass a check, in a normalized form.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr, $shape:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl FromStr for $name {
            type Err = IdentifierError;

            fn from_str(text: &str) -> Result<Self, IdentifierError> {
                let check: fn(&str) -> bool = $check;
                let shape: fn(&str) -> String = $shape;

                if check(text) {
                    return Ok(Self(shape(text).into()));
                }

                let text = text.chars().take(SHOWN_CHARS).collect();
                Err(IdentifierError { what: $what, text, rule: $rule })
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        serde_by_text!($name);
    };
}

identifier!(
    /// The id of a rule, which events and denials contain.
    RuleId,
    "rule id",
    "1 to 64 letters, digits, ., _ and - are allowed, other than . and ..",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !matches!(text, "." | ".."),
    str::to_owned
);

identifier!(
    /// An HTTP method, in uppercase.
    Method,
    "HTTP method",
    "1 to 32 letters and - are allowed, as in GET",
    |text| (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-'),
    str::to_ascii_uppercase
);

identifier!(
    /// The name of a secret: the environment variable that holds its placeholder in the guest.
    SecretName,
    "secret name",
    "1 to 64 uppercase letters, digits and _ are allowed, not starting with a digit, as in API_TOKEN",
    |text| (1..=64).contains(&text.len())
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'),
    str::to_owned
);

/// Headers that frame or route a message, and so cannot carry a secret.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

identifier!(
    /// The name of a request header that may carry a secret, in lowercase.
    HeaderName,
    "header for a secret",
    "1 to 64 letters, digits, - and _ are allowed, and not a header that frames or routes the message, such as host",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        && !FRAMING.contains(&text.to_ascii_lowercase().as_str()),
    str::to_ascii_lowercase
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_rule_is_no_part_of_a_path() {
        for text in [".", ".."] {
            assert!(text.parse::<RuleId>().is_err(), "{text}");
        }
        assert!("...".parse::<RuleId>().is_ok());
    }
}

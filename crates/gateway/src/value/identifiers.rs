use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::serde_by_text::serde_by_text;

/// Why a word cannot be what it is given as.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no {what}: {rule}")]
pub struct IdentifierError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// Characters of an offending word that its error repeats.
const SHOWN_CHARS: usize = 80;

macro_rules! word {
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

word!(
    /// What a rule is called in events and refusals.
    RuleId,
    "id of a rule",
    "1 to 64 letters, digits, ., _ and - are allowed",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
    str::to_owned
);

word!(
    /// A method of HTTP, in capitals.
    Method,
    "method of HTTP",
    "1 to 32 letters and - are allowed, as in GET",
    |text| (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-'),
    str::to_ascii_uppercase
);

word!(
    /// What a secret is called: the environment variable that holds its placeholder in the guest.
    SecretName,
    "name of a secret",
    "1 to 64 capital letters, digits and _ are allowed, no digit first, as in API_TOKEN",
    |text| (1..=64).contains(&text.len())
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'),
    str::to_owned
);

/// Headers that say how a message is framed or where it goes, and so are never the user's.
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

word!(
    /// The name of a request's header that may carry a secret, in lower case.
    HeaderName,
    "header for a secret",
    "1 to 64 letters, digits, - and _ are allowed, and none that frames the message, as host does",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        && !FRAMING.contains(&text.to_ascii_lowercase().as_str()),
    str::to_ascii_lowercase
);

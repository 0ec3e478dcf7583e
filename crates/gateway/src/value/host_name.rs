//! Names of hosts, and patterns of names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::serde_by_text::serde_by_text;

/// Maximum length of a host name, in characters, as DNS limits it.
pub const MAX_HOST_NAME_CHARS: usize = 253;
/// Maximum length of one label of a host name, in characters, as DNS limits it.
pub const MAX_LABEL_CHARS: usize = 63;

/// The name of a host, in lowercase and without a final dot. It is never an address.
///
/// A name with letters outside ASCII is written in the form that DNS uses, with `xn--`.
///
/// ```
/// use fumehood_gateway::policy::HostName;
///
/// let name: HostName = "API.Example.COM.".parse()?;
/// assert_eq!(name.as_ref(), "api.example.com");
/// # Ok::<(), fumehood_gateway::policy::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// Why a text is not a host name or a pattern of host names.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text is empty, or contains two dots in a row.
    #[error("`{0}` has an empty label; write a host name like api.example.com")]
    EmptyLabel(String),
    /// The name is longer than [`MAX_HOST_NAME_CHARS`].
    #[error("the host name has {0} characters; at most {MAX_HOST_NAME_CHARS} are allowed")]
    TooLong(usize),
    /// A label is longer than [`MAX_LABEL_CHARS`].
    #[error("`{0}` has a label of more than {MAX_LABEL_CHARS} characters")]
    LongLabel(String),
    /// The name contains a letter that is not ASCII.
    #[error("`{0}` is not ASCII; write its xn-- form, as DNS uses it")]
    Unicode(String),
    /// The name contains a character that is not allowed.
    #[error(
        "`{name}` contains {character:?}; only letters, digits, - and _ are allowed, with dots between labels"
    )]
    Character {
        /// The text.
        name: String,
        /// The character.
        character: char,
    },
    /// A label starts or ends with a hyphen.
    #[error("`{0}` has a label that starts or ends with -")]
    Hyphen(String),
    /// The text is an address, or some programs would read it as one.
    #[error("`{0}` is an address, not a name; write addresses in `addresses`")]
    Address(String),
    /// The text contains a `*` in the wrong place.
    #[error(
        "`{0}`: * must be the whole first label, as in *.example.com, which matches any name below"
    )]
    Wildcard(String),
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text);

        // Checks of the whole name come first, with the most helpful error.
        if name.len() > MAX_HOST_NAME_CHARS {
            return Err(NameError::TooLong(name.len()));
        }

        if !name.is_ascii() {
            return Err(NameError::Unicode(text.into()));
        }

        if name.contains('*') {
            return Err(NameError::Wildcard(text.into()));
        }

        if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Err(NameError::Address(text.into()));
        }

        // Then each label, and the last one again: it must not make the name an address.
        name.split('.')
            .try_for_each(|label| check_label(label, text))?;
        if is_number(name.rsplit('.').next().unwrap_or_default()) {
            return Err(NameError::Address(text.into()));
        }

        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

fn check_label(label: &str, name: &str) -> Result<(), NameError> {
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if label.is_empty() {
        return Err(NameError::EmptyLabel(name.into()));
    }

    if label.len() > MAX_LABEL_CHARS {
        return Err(NameError::LongLabel(name.into()));
    }

    if let Some(character) = label.chars().find(|c| !is_allowed(c)) {
        return Err(NameError::Character {
            name: name.into(),
            character,
        });
    }

    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::Hyphen(name.into()));
    }

    Ok(())
}

/// Returns whether many programs read a name with this last label as an IPv4 address: `127.1`, `0x7f000001`.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or(label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => label.chars().all(|c| c.is_ascii_digit()),
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

serde_by_text!(HostName);

/// A pattern of host names in a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Only this name.
    Exact(HostName),
    /// All names with one or more labels before this one, but not the name itself: `*.example.com`.
    Below(HostName),
}

impl HostPattern {
    /// Returns whether the pattern matches `name`.
    #[must_use]
    pub fn matches(&self, name: &HostName) -> bool {
        match self {
            Self::Exact(host) => name == host,
            Self::Below(host) => name
                .as_ref()
                .strip_suffix(host.as_ref())
                .is_some_and(|before| before.ends_with('.')),
        }
    }
}

impl FromStr for HostPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix("*.") {
            Some(host) => Ok(Self::Below(host.parse()?)),
            None => Ok(Self::Exact(text.parse()?)),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(f, "{host}"),
            Self::Below(host) => write!(f, "*.{host}"),
        }
    }
}

serde_by_text!(HostPattern);

/// A host in a URL or an HTTP `Host` header: a name or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name.
    Name(HostName),
    /// An address. IPv6 is written in brackets.
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bracketed = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));

        let address = match bracketed {
            Some(inside) => inside.parse().ok().map(IpAddr::V6),
            None => text.parse().ok().map(IpAddr::V4),
        };

        match address {
            Some(address) => Ok(Self::Address(address)),
            None => Ok(Self::Name(text.parse()?)),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

serde_by_text!(Host);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_names_are_rejected_with_the_reason() {
        for (text, code) in [
            ("", "empty label"),
            (".", "empty label"),
            ("a..example", "empty label"),
            ("a.example..", "empty label"),
            ("bücher.example", "xn--"),
            ("a b.example", "' '"),
            ("-a.example", "starts or ends"),
            ("a-.example", "starts or ends"),
            ("203.0.113.7", "is an address"),
            ("[2001:db8::1]", "is an address"),
            ("2001:db8::1", "is an address"),
            ("127.1", "is an address"),
            ("0x7f000001", "is an address"),
            ("2130706433", "is an address"),
            ("a.*.example", "the whole first label"),
        ] {
            let error = text.parse::<HostName>().unwrap_err().to_string();
            assert!(error.contains(code), "{text}: {error}");
        }

        for text in ["*", "*a.example", "*.*.example", "*."] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }

        assert_eq!(
            "xn--bcher-kva.example"
                .parse::<HostName>()
                .unwrap()
                .as_ref(),
            "xn--bcher-kva.example"
        );

        assert!("_dmarc.a_b.example".parse::<HostName>().is_ok());
    }

    #[test]
    fn lengths_are_limited() {
        let label = |chars: usize| format!("{}.test", "a".repeat(chars));
        assert!(label(MAX_LABEL_CHARS).parse::<HostName>().is_ok());
        let error = label(MAX_LABEL_CHARS + 1).parse::<HostName>();
        assert!(matches!(error, Err(NameError::LongLabel(_))));
        // 126 labels of one letter, and a last one of `last` letters.
        let name = |last: usize| "a.".repeat(126) + &"b".repeat(last);
        assert_eq!(name(1).len(), MAX_HOST_NAME_CHARS);
        assert!(name(1).parse::<HostName>().is_ok());
        assert_eq!(
            name(2).parse::<HostName>(),
            Err(NameError::TooLong(MAX_HOST_NAME_CHARS + 1))
        );
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        let shown = |text: &str| text.parse::<Host>().map(|host| host.to_string());
        assert_eq!(shown("[2001:DB8::1]").unwrap(), "[2001:db8::1]");
        assert_eq!(shown("203.0.113.7").unwrap(), "203.0.113.7");
        assert_eq!(shown("A.example").unwrap(), "a.example");
        assert!(shown("2001:db8::1").is_err() && shown("[203.0.113.7]").is_err());
    }
}

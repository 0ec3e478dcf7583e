use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::serde_by_text::serde_by_text;

/// Characters of a host name at most: what DNS can carry.
pub const MAX_HOST_NAME_CHARS: usize = 253;
/// Characters of one label of a host name at most: what DNS can carry.
pub const MAX_LABEL_CHARS: usize = 63;

/// The name of a host: lower case, without a dot at its end, and no address.
///
/// A name of other letters than ASCII's is written as DNS has it, with `xn--`.
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

/// Why a text is no host name, or no pattern of such.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing at all, or two dots in a row.
    #[error("`{0}` has an empty label; write a host name like api.example.com")]
    EmptyLabel(String),
    /// Past [`MAX_HOST_NAME_CHARS`].
    #[error("a host name of {0} characters; {MAX_HOST_NAME_CHARS} are allowed")]
    Long(usize),
    /// Past [`MAX_LABEL_CHARS`].
    #[error("`{0}` has a label of more than {MAX_LABEL_CHARS} characters")]
    LongLabel(String),
    /// A letter that is not ASCII.
    #[error("`{0}` is not ASCII; write its xn-- form, as DNS has it")]
    Unicode(String),
    /// A character that no host name has.
    #[error("`{name}` has a {character:?}; letters, digits, - and _ are allowed, and dots between")]
    Character {
        /// What was given.
        name: String,
        /// What is not allowed in it.
        character: char,
    },
    /// A hyphen at an end of a label.
    #[error("`{0}` has a label that begins or ends with -")]
    Hyphen(String),
    /// An address, or what some programs take for one.
    #[error("`{0}` is an address, not a name; rules take addresses as `addresses`")]
    Address(String),
    /// A `*` where none can be.
    #[error("`{0}`: * stands alone before the first dot, as in *.example.com, for any name below")]
    Wildcard(String),
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > MAX_HOST_NAME_CHARS {
            return Err(NameError::Long(name.len()));
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

/// A last label like this makes many programs read the whole as an IPv4 address: `127.1`, `0x7f000001`.
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

/// Which host names a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This one.
    Exact(HostName),
    /// All that have one label or more before this one, and never this one itself: `*.example.com`.
    Below(HostName),
}

impl HostPattern {
    /// Whether it is about `name`.
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

/// What a URL or an HTTP `Host` names: a host by its name, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name.
    Name(HostName),
    /// An address; IPv6 is written in brackets.
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
    fn what_is_no_name_says_why() {
        for (text, code) in [
            ("", "empty label"),
            (".", "empty label"),
            ("a..example", "empty label"),
            ("a.example..", "empty label"),
            ("bücher.example", "xn--"),
            ("a b.example", "' '"),
            ("-a.example", "begins or ends"),
            ("a-.example", "begins or ends"),
            ("203.0.113.7", "is an address"),
            ("[2001:db8::1]", "is an address"),
            ("2001:db8::1", "is an address"),
            ("127.1", "is an address"),
            ("0x7f000001", "is an address"),
            ("2130706433", "is an address"),
            ("a.*.example", "stands alone"),
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
    fn limits_hold_and_not_one_more() {
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
            Err(NameError::Long(MAX_HOST_NAME_CHARS + 1))
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

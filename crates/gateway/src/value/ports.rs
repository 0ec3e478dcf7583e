//! Ports.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Maximum number of ports and ranges in one rule.
pub const MAX_PORT_RANGES: usize = 32;

/// Ports of a host: at least one port or range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

/// Why a text does not name ports.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PortsError {
    /// The text is neither a port nor a range.
    #[error("`{0}` is not a port; write a number from 1 to 65535, a range like 8000-8010, or any")]
    Port(String),
    /// The range's start is greater than its end.
    #[error("invalid port range {0}-{1}: the start is greater than the end")]
    Reversed(u16, u16),
    /// The list is empty.
    #[error("an empty list of ports allows nothing; leave `ports` out for 80 and 443")]
    Empty,
    /// There are more than [`MAX_PORT_RANGES`].
    #[error(
        "more than {MAX_PORT_RANGES} ports and ranges in a rule; use wider ranges, or another rule"
    )]
    TooMany,
}

impl Ports {
    /// Returns the ports of HTTP and HTTPS.
    #[must_use]
    pub fn web() -> Self {
        Self(vec![80..=80, 443..=443])
    }

    /// Returns all ports.
    #[must_use]
    pub fn any() -> Self {
        Self(vec![1..=u16::MAX])
    }

    /// Returns a single port.
    #[must_use]
    pub fn one(port: NonZeroU16) -> Self {
        Self(vec![port.get()..=port.get()])
    }

    /// Returns whether `port` is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    fn from_ranges(ranges: Vec<RangeInclusive<u16>>) -> Result<Self, PortsError> {
        match ranges.len() {
            0 => Err(PortsError::Empty),
            1..=MAX_PORT_RANGES => Ok(Self(ranges)),
            _ => Err(PortsError::TooMany),
        }
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, PortsError> {
    let port = |word: &str| match word.parse::<NonZeroU16>() {
        Ok(port) if word.starts_with(|c: char| c.is_ascii_digit()) => Ok(port.get()),
        _ => Err(PortsError::Port(text.chars().take(32).collect())),
    };

    if text == "any" {
        return Ok(1..=u16::MAX);
    }

    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };

    if last < first {
        return Err(PortsError::Reversed(first, last));
    }

    Ok(first..=last)
}

/// Parses ports separated by commas, as on a command line: `443,8000-8010`.
impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let words = text.split(',').take(MAX_PORT_RANGES + 1);
        Self::from_ranges(words.map(parse_range).collect::<Result<_, _>>()?)
    }
}

/// Shows a range as it is written.
struct RangeText<'a>(&'a RangeInclusive<u16>);

impl fmt::Display for RangeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self.0.start(), *self.0.end()) {
            (1, u16::MAX) => f.write_str("any"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{}", RangeText(range))?;
        }
        Ok(())
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for range in &self.0 {
            if range.start() == range.end() {
                list.serialize_element(range.start())?;
            } else {
                list.serialize_element(&RangeText(range).to_string())?;
            }
        }

        list.end()
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortsVisitor)
    }
}

struct PortsVisitor;

impl<'de> Visitor<'de> for PortsVisitor {
    type Value = Ports;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ports: a number, a range like \"8000-8010\", \"any\", or a list of these")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Ports, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Ports, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ports, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ports, A::Error> {
        let mut ranges = Vec::new();
        while let Some(Ports(more)) = list.next_element()? {
            ranges.extend(more);
            if ranges.len() > MAX_PORT_RANGES {
                return Err(A::Error::custom(PortsError::TooMany));
            }
        }

        Ports::from_ranges(ranges).map_err(A::Error::custom)
    }
}

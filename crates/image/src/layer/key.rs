//! Keys of requests and of resolved sets.

use std::fmt;

use super::format::FORMAT;
use crate::artifact_cache::is_digest;
use crate::hash::Fields;

/// A hash that identifies a request for packages, or a resolved set of packages.
///
/// ```
/// use fumehood_image::LayerKey;
///
/// let key = LayerKey::of([("language", "python"), ("package", "six==1.16.0")]);
/// assert_eq!(key.to_string().len(), 64);
/// assert_ne!(key, LayerKey::of([("language", "python")]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerKey(String);

impl LayerKey {
    /// Returns the key of these names and values in this order.
    pub fn of<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let start = Fields::default().add("layer", FORMAT.to_string());
        let all = fields
            .into_iter()
            .fold(start, |all, (name, value)| all.add(name, value));
        Self(all.finish())
    }

    /// Returns the key as 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses a file name as a key.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        is_digest(name).then(|| Self(name.to_owned()))
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

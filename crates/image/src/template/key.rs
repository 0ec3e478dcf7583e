//! Keys of templates.

use std::collections::BTreeMap;
use std::fmt;

use super::format::FORMAT;
use crate::artifact_cache::is_digest;
use crate::hash::Fields;

/// The name of a template in the store: a hash over everything that the template depends on.
///
/// ```
/// use std::collections::BTreeMap;
/// use fumehood_image::TemplateKey;
///
/// let python = BTreeMap::from([("language".to_owned(), "python".to_owned())]);
/// assert_eq!(TemplateKey::of(&python).to_string().len(), 64);
/// assert_ne!(TemplateKey::of(&python), TemplateKey::of(&BTreeMap::new()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateKey(String);

impl TemplateKey {
    /// Returns the key of a template that depends on these names and values.
    pub fn of(inputs: &BTreeMap<String, String>) -> Self {
        let start = Fields::default().add("template", FORMAT.to_string());
        let all = inputs
            .iter()
            .fold(start, |fields, (name, value)| fields.add(name, value));
        Self(all.finish())
    }

    /// Returns the key as 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses a directory's name as a key.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        is_digest(name).then(|| Self(name.to_owned()))
    }
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

use std::fmt;

use serde::{Deserialize, Serialize};

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct InstalledPackage {
    /// The name, as the package manager reports it.
    pub name: String,
    /// The exact version.
    pub version: String,
}

/// Writes the name and the version, separated by a space.
impl fmt::Display for InstalledPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

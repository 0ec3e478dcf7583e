//! Ecosystems of packages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An ecosystem whose packages come from an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// Python, with the index of pip and uv.
    Python,
    /// JavaScript, with the registry of npm and bun.
    JavaScript,
}

impl Ecosystem {
    fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
        }
    }
}

impl fmt::Display for Ecosystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Ecosystem {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Python, Self::JavaScript]
            .into_iter()
            .find(|ecosystem| ecosystem.as_str() == text)
            .ok_or(())
    }
}

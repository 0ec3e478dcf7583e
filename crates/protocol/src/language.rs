use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A language that the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// CPython.
    Python,
    /// JavaScript and TypeScript, by bun.
    #[serde(alias = "typescript")]
    Javascript,
    /// Shell, by bash.
    #[serde(alias = "raw")]
    Shell,
}

impl Language {
    /// Every language, in the order that documentation lists them.
    pub const ALL: [Self; 3] = [Self::Python, Self::Javascript, Self::Shell];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Shell => "shell",
        }
    }

    /// The language of a file with this extension (without its dot), or `None`.
    #[must_use]
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension {
            "py" => Some(Self::Python),
            "js" | "mjs" | "cjs" | "ts" | "mts" | "cts" | "jsx" | "tsx" => Some(Self::Javascript),
            "sh" | "bash" => Some(Self::Shell),
            _ => None,
        }
    }
}

impl std::fmt::Display for Language {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Takes the names on the wire and the ones people type for them.
impl FromStr for Language {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "python" | "py" => Ok(Self::Python),
            "javascript" | "js" | "typescript" | "ts" => Ok(Self::Javascript),
            "raw" | "shell" | "sh" | "bash" => Ok(Self::Shell),
            other => Err(format!(
                "`{other}` is not a language fumehood runs; use python, javascript (or typescript), or shell"
            )),
        }
    }
}

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A language that the guest runs. On the wire, `raw` is an alias of `shell`, and `typescript` of
/// `javascript`.
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

    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Shell => "shell",
        }
    }

    /// Returns the language of a file with this extension (without its dot), or `None`.
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

/// Parses the names on the wire and the short names that people type for them.
impl FromStr for Language {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "python" | "py" => Ok(Self::Python),
            "javascript" | "js" | "typescript" | "ts" => Ok(Self::Javascript),
            "raw" | "shell" | "sh" | "bash" => Ok(Self::Shell),
            other => Err(format!(
                "`{other}` is not a supported language; use python, javascript (or typescript), or shell"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_on_the_wire() {
        for language in Language::ALL {
            let json = serde_json::to_string(&language).unwrap();
            assert_eq!(json, format!("\"{language}\""));
            assert_eq!(serde_json::from_str::<Language>(&json).unwrap(), language);
        }

        let parse = |json| serde_json::from_str::<Language>(json).unwrap();
        assert_eq!(parse(r#""raw""#), Language::Shell);
        assert_eq!(parse(r#""typescript""#), Language::Javascript);
    }
}

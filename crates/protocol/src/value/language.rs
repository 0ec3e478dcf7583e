use std::borrow::Cow;
use std::str::FromStr;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error};

/// A language that the guest runs. [`NAMES`](Self::NAMES) lists its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// CPython.
    Python,
    /// JavaScript and TypeScript, by bun.
    Javascript,
    /// Shell, by bash.
    Shell,
}

/// The name of the shell in version 0 of the protocol, which is still accepted.
const VERSION_0_SHELL: &str = "raw";

impl Language {
    /// Every language, in the order that documentation lists them.
    pub const ALL: [Self; 3] = [Self::Python, Self::Javascript, Self::Shell];

    /// Every accepted name with its language; the first name of each language is the one that fumehood writes. All
    /// interfaces accept these names: the protocol, the HTTP API, MCP, the SDK and the command line.
    pub const NAMES: [(&str, Self); 9] = [
        ("python", Self::Python),
        ("py", Self::Python),
        ("javascript", Self::Javascript),
        ("js", Self::Javascript),
        ("typescript", Self::Javascript),
        ("ts", Self::Javascript),
        ("shell", Self::Shell),
        ("bash", Self::Shell),
        ("sh", Self::Shell),
    ];

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

/// Parses an accepted name.
impl FromStr for Language {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == VERSION_0_SHELL {
            return Ok(Self::Shell);
        }

        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, language)| *language).ok_or_else(|| {
            format!(
                "`{name}` is not a supported language; use python (py), javascript (js), typescript (ts), or shell \
                 (bash, sh)"
            )
        })
    }
}

impl<'de> Deserialize<'de> for Language {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        name.parse().map_err(D::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Language {
    fn schema_name() -> Cow<'static, str> {
        "Language".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A language that the guest runs: Python by CPython (`python` or `py`), JavaScript and \
                TypeScript by bun (`javascript`, `js`, `typescript` or `ts`), shell by bash (`shell`, `bash` or `sh`). \
                `raw` is an old name of `shell`.",
            "type": "string",
            "enum": Self::NAMES.iter().map(|(name, _)| *name).chain([VERSION_0_SHELL]).collect::<Vec<_>>(),
        })
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

        for (name, language) in Language::NAMES {
            let parsed: Language = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            assert_eq!(parsed, language, "{name}");
            assert_eq!(name.parse(), Ok(language));
        }
        assert_eq!("raw".parse(), Ok(Language::Shell));

        for unknown in ["", "Python", "typescript ", "cobol"] {
            let error = unknown.parse::<Language>().unwrap_err();
            assert!(error.contains("use python (py)"), "{error}");
            assert!(serde_json::from_str::<Language>(&format!("\"{unknown}\"")).is_err());
        }
    }

    #[test]
    fn the_first_name_of_a_language_is_the_one_that_is_written() {
        for language in Language::ALL {
            let first = Language::NAMES.iter().find(|(_, named)| *named == language);
            assert_eq!(first.map(|(name, _)| *name), Some(language.as_str()));
        }
    }
}

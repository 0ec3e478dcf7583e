use std::fs;
use std::path::Path;

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::modes::Mode;
use super::program::{Folder, Program};

/// Most rows that the table may have. Differences are to be removed, not listed.
const MAX_ROWS: usize = 14;

/// The differences that stay, in the order of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    /// The rows.
    #[serde(default, rename = "exception")]
    pub rows: Vec<Exception>,
}

/// A difference that stays: programs that differ, or a part of the output that is not compared.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Its name.
    pub id: String,
    /// The modes that differ from the plain interpreter.
    pub modes: Vec<Mode>,
    /// The folders of the programs.
    pub languages: Vec<Folder>,
    /// What differs, and why it stays: a sentence for the documentation.
    pub reason: String,
    /// The ids of the programs that differ.
    #[serde(default)]
    pub programs: Vec<String>,
    /// What is replaced in the outputs of both before they are compared.
    #[serde(default)]
    pub normalise: Vec<Replacement>,
}

/// A replacement in an output.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// A regular expression for bytes; `^` and `$` match at lines.
    #[serde(deserialize_with = "deserialize_pattern")]
    pattern: Regex,
    /// What takes the place of a match; `$1` is the first group.
    replacement: String,
}

impl Exceptions {
    /// Reads the table.
    ///
    /// # Panics
    /// Panics if the table cannot be read or is invalid.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let parsed = Self::parse(&text);
        parsed.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table: Self = toml::from_str(text).map_err(|e| e.to_string())?;

        if table.rows.len() > MAX_ROWS {
            return Err(format!(
                "{} rows; at most {MAX_ROWS} are allowed",
                table.rows.len()
            ));
        }
        for (at, row) in table.rows.iter().enumerate() {
            if table.rows[..at].iter().any(|other| other.id == row.id) {
                return Err(format!("two rows have the id `{}`", row.id));
            }
            if row.modes.is_empty() || row.modes.contains(&Mode::Plain) || row.languages.is_empty()
            {
                return Err(format!(
                    "{}: name the modes other than plain, and the languages",
                    row.id
                ));
            }
            if row.reason.trim().is_empty() || (row.programs.is_empty() && row.normalise.is_empty())
            {
                return Err(format!(
                    "{}: give a reason, and `programs` or `normalise`",
                    row.id
                ));
            }
        }

        Ok(table)
    }

    /// Returns the ids in `programs` that name no program of the row's languages, as messages.
    #[must_use]
    pub fn unknown_programs(&self, programs: &[Program]) -> Vec<String> {
        let is_known = |row: &Exception, id: &str| {
            let mut programs = programs.iter();
            programs.any(|program| program.id() == id && row.languages.contains(&program.folder))
        };

        let rows = self.rows.iter();
        let unknown = rows.flat_map(|row| {
            let ids = row.programs.iter().filter(|id| !is_known(row, id));
            ids.map(|id| {
                format!(
                    "exception {}: there is no program `{id}` in its languages",
                    row.id
                )
            })
        });
        unknown.collect()
    }

    /// Returns the table in Markdown, as the documentation shows it.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text =
            "| id | languages | modes | difference and reason |\n| --- | --- | --- | --- |\n"
                .to_owned();
        for row in &self.rows {
            let languages: Vec<_> = row.languages.iter().map(|folder| folder.as_str()).collect();
            let modes: Vec<_> = row.modes.iter().map(|mode| mode.as_str()).collect();
            text += &format!(
                "| `{}` | {} | {} | {} |\n",
                row.id,
                languages.join(", "),
                modes.join(", "),
                row.reason.trim().replace('\n', " ").replace('|', "\\|"),
            );
        }
        text
    }
}

impl Exception {
    /// Whether the row is about this mode of programs in this folder.
    pub(super) fn covers(&self, folder: Folder, mode: Mode) -> bool {
        self.languages.contains(&folder) && self.modes.contains(&mode)
    }

    /// Whether the row lists this program.
    pub(super) fn lists(&self, program: &Program) -> bool {
        self.programs.iter().any(|id| *id == program.id())
    }

    /// Replaces what is not compared.
    pub(super) fn apply(&self, output: &[u8]) -> Vec<u8> {
        let mut output = output.to_vec();
        for Replacement {
            pattern,
            replacement,
        } in &self.normalise
        {
            output = pattern
                .replace_all(&output, replacement.as_bytes())
                .into_owned();
        }
        output
    }
}

fn deserialize_pattern<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Regex, D::Error> {
    let text = String::deserialize(from)?;
    let pattern = RegexBuilder::new(&text)
        .unicode(false)
        .multi_line(true)
        .build();
    pattern.map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const ROW: &str =
        "[[exception]]\nid = \"a\"\nmodes = [\"context\"]\nlanguages = [\"python\"]\n";

    #[test]
    fn a_row_replaces_parts_of_the_output() {
        let rest =
            "reason = \"r\"\nnormalise = [{ pattern = '^exec-\\d+$', replacement = 'main' }]\n";
        let table = Exceptions::parse(&[ROW, rest].concat()).unwrap();
        assert_eq!(
            table.rows[0].apply(b"exec-1\nexec-2 \xff\n"),
            b"main\nexec-2 \xff\n"
        );
        assert!(table.rows[0].covers(Folder::Python, Mode::Context));
        assert!(!table.rows[0].covers(Folder::Python, Mode::Run));
    }

    #[test]
    fn incomplete_rows_are_rejected() {
        for (rest, part) in [
            ("reason = \"\"\nprograms = [\"python/a\"]", "give a reason"),
            ("reason = \"r\"", "`programs` or `normalise`"),
            (
                "reason = \"r\"\nprograms = [\"python/a\"]\nother = 1",
                "unknown field",
            ),
            (
                "reason = \"r\"\nnormalise = [{ pattern = '(', replacement = '' }]",
                "unclosed",
            ),
        ] {
            let error = Exceptions::parse(&[ROW, rest].concat()).unwrap_err();
            assert!(error.contains(part), "{rest}: {error}");
        }
    }

    #[test]
    fn the_number_of_rows_is_limited() {
        let rows = |count| -> String {
            let rest = "reason = \"r\"\nprograms = [\"python/a\"]\n";
            let row = |n| [&ROW.replace("\"a\"", &format!("\"a{n}\"")), rest].concat();
            (0..count).map(row).collect()
        };
        assert!(Exceptions::parse(&rows(MAX_ROWS)).is_ok());
        assert!(
            Exceptions::parse(&rows(MAX_ROWS + 1))
                .unwrap_err()
                .contains("at most")
        );
    }
}

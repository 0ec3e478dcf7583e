//! Rules about the text of one source file: its length, and words that say nothing.

use std::fs;
use std::path::Path;

/// Words that say nothing about what a type is for.
const EMPTY_WORDS: [&str; 4] = ["Manager", "Utils", "Helper", "Common"];

/// Lines of a source file without its tests and blank lines; with more, it holds more than one noun or verb.
const FILE_LINES: usize = 500;

/// What is wrong with the text of a file.
///
/// # Errors
/// Fails if the file cannot be read.
pub(super) fn faults(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(file)?;
    let shown = file.display();
    let mut faults = Vec::new();

    let lines = text
        .lines()
        .take_while(|line| !line.starts_with("mod tests"))
        .filter(|line| !line.trim().is_empty())
        .count();
    if lines > FILE_LINES {
        faults.push(format!(
            "{shown} has {lines} lines without its tests; at most {FILE_LINES} are allowed: split it by noun or verb"
        ));
    }

    for line in text.lines() {
        if let Some(word) = defined_name(line).and_then(empty_word) {
            faults.push(format!(
                "{shown}: `{word}` in a name says nothing about what it is for: {}",
                line.trim()
            ));
        }
    }

    Ok(faults)
}

/// The name of the type or module that a line defines.
fn defined_name(line: &str) -> Option<&str> {
    ["struct ", "enum ", "trait ", "mod "]
        .iter()
        .find_map(|keyword| {
            let (before, after) = line.split_once(keyword)?;
            (before.is_empty() || before.ends_with(' '))
                .then(|| after.split(|c: char| !c.is_alphanumeric()).next())?
        })
}

/// The empty word that a name contains.
fn empty_word(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();

    EMPTY_WORDS
        .into_iter()
        .find(|word| name.contains(&word.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types_and_modules_are_read_and_no_others() {
        assert_eq!(
            defined_name("pub(crate) struct Launcher {"),
            Some("Launcher")
        );
        assert_eq!(defined_name("mod utils;"), Some("utils"));
        assert_eq!(defined_name("    construct (x)"), None);
        assert_eq!(empty_word("VmManager"), Some("Manager"));
        assert_eq!(empty_word("utils"), Some("Utils"));
        assert_eq!(empty_word("Launcher"), None);
    }
}

//! Environment markers of requirements (PEP 508), for the guest: CPython 3.13 on Linux, x86-64.

use std::cmp::Ordering;

/// The version of the guest's Python.
pub(super) const PYTHON_VERSION: &str = "3.13";

/// The variables of markers, and their values in a guest. Values that differ between images are not here.
const VARIABLES: [(&str, &str); 9] = [
    ("python_version", PYTHON_VERSION),
    ("python_full_version", "3.13.0"),
    ("implementation_name", "cpython"),
    ("platform_python_implementation", "CPython"),
    ("os_name", "posix"),
    ("sys_platform", "linux"),
    ("platform_system", "Linux"),
    ("platform_machine", "x86_64"),
    // No extra of another package is requested.
    ("extra", ""),
];

/// Operators, longer ones first.
const OPERATORS: [&str; 9] = ["===", "==", "!=", "<=", ">=", "~=", "<", ">", "in"];

/// Returns whether a marker applies to the guest.
///
/// # Errors
/// Returns why the marker is not supported, as a phrase.
pub(super) fn applies(text: &str) -> Result<bool, String> {
    let tokens = tokens(text)?;
    let mut rest = tokens.as_slice();
    let result = any_of(&mut rest, text, 0)?;
    if rest.is_empty() {
        Ok(result)
    } else {
        Err(unsupported(text))
    }
}

/// Maximum depth of parentheses.
const MAX_DEPTH: usize = 16;

#[derive(Debug, PartialEq)]
enum Token {
    /// A parenthesis, an operator, or a word such as `and`.
    Word(String),
    /// A quoted text.
    Text(String),
}

fn unsupported(text: &str) -> String {
    format!("the marker `{text}` is not supported")
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();

    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' => 1,
            '\'' | '"' => {
                let inner = &rest[1..];
                let end = inner.find(first).ok_or_else(|| unsupported(text))?;
                tokens.push(Token::Text(inner[..end].to_owned()));
                rest = inner[end + 1..].trim_start();
                continue;
            }
            c if c.is_ascii_alphanumeric() || c == '_' => rest
                .find(|c: char| !c.is_ascii_alphanumeric() && !"_.".contains(c))
                .unwrap_or(rest.len()),
            _ => {
                let operator = OPERATORS.iter().find(|o| rest.starts_with(**o));
                operator.ok_or_else(|| unsupported(text))?.len()
            }
        };
        tokens.push(Token::Word(rest[..length].to_owned()));
        rest = rest[length..].trim_start();
    }

    Ok(tokens)
}

fn take_word(tokens: &mut &[Token], word: &str) -> bool {
    match tokens.split_first() {
        Some((Token::Word(first), rest)) if first == word => {
            *tokens = rest;
            true
        }
        _ => false,
    }
}

fn any_of(tokens: &mut &[Token], text: &str, depth: usize) -> Result<bool, String> {
    let mut result = all_of(tokens, text, depth)?;
    while take_word(tokens, "or") {
        result |= all_of(tokens, text, depth)?;
    }
    Ok(result)
}

fn all_of(tokens: &mut &[Token], text: &str, depth: usize) -> Result<bool, String> {
    let mut result = comparison(tokens, text, depth)?;
    while take_word(tokens, "and") {
        result &= comparison(tokens, text, depth)?;
    }
    Ok(result)
}

fn comparison(tokens: &mut &[Token], text: &str, depth: usize) -> Result<bool, String> {
    if take_word(tokens, "(") {
        if depth == MAX_DEPTH {
            return Err(unsupported(text));
        }
        let result = any_of(tokens, text, depth + 1)?;
        let is_closed = take_word(tokens, ")");
        return is_closed.then_some(result).ok_or_else(|| unsupported(text));
    }

    let (left, is_version) = operand(tokens, text)?;
    let is_negated = take_word(tokens, "not");
    let operator = match tokens.split_first() {
        Some((Token::Word(operator), rest)) if OPERATORS.contains(&operator.as_str()) => {
            *tokens = rest;
            operator.clone()
        }
        _ => return Err(unsupported(text)),
    };
    let (right, is_other_version) = operand(tokens, text)?;

    let order = if is_version || is_other_version {
        compare_versions(&left, &right).ok_or_else(|| unsupported(text))
    } else {
        Ok(left.cmp(&right))
    };
    Ok(match operator.as_str() {
        "in" => {
            let mut words = right.split([',', ' ']);
            let is_in = if is_version {
                words.any(|word| word == left)
            } else {
                right.contains(&left)
            };
            is_in != is_negated
        }
        _ if is_negated => return Err(unsupported(text)),
        "==" | "===" if right.ends_with(".*") => starts_with(&left, &right),
        "!=" if right.ends_with(".*") => !starts_with(&left, &right),
        "==" | "===" => order?.is_eq(),
        "!=" => order?.is_ne(),
        "<=" => order?.is_le(),
        ">=" => order?.is_ge(),
        "<" => order?.is_lt(),
        ">" => order?.is_gt(),
        _ => return Err(unsupported(text)),
    })
}

/// Returns a value, and whether it is that of a variable with a version.
fn operand(tokens: &mut &[Token], text: &str) -> Result<(String, bool), String> {
    let (first, rest) = tokens.split_first().ok_or_else(|| unsupported(text))?;
    *tokens = rest;
    match first {
        Token::Text(value) => Ok((value.clone(), false)),
        Token::Word(name) => {
            let mut known = VARIABLES.iter();
            let (_, value) = known
                .find(|(known, _)| known == name)
                .ok_or_else(|| unsupported(text))?;
            Ok(((*value).to_owned(), name.starts_with("python_")))
        }
    }
}

fn starts_with(version: &str, pattern: &str) -> bool {
    let prefix = pattern.trim_end_matches(".*");
    let rest = version.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Compares versions that consist of numbers.
pub(super) fn compare_versions(left: &str, right: &str) -> Option<Ordering> {
    let numbers = |version: &str| -> Option<Vec<u64>> {
        version.trim().split('.').map(|n| n.parse().ok()).collect()
    };
    let (mut left, mut right) = (numbers(left)?, numbers(right)?);

    let length = left.len().max(right.len());
    left.resize(length, 0);
    right.resize(length, 0);
    Some(left.cmp(&right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_of_the_guest() {
        for (text, expected) in [
            ("python_version >= '3.8'", true),
            ("python_version < \"3.9\"", false),
            ("python_version == '3.*'", true),
            ("'3.13' <= python_version", true),
            ("python_version in '3.12, 3.13'", true),
            ("python_version not in '3.13'", false),
            ("sys_platform == 'win32' or os_name == 'nt'", false),
            (
                "sys_platform == 'linux' and platform_machine == 'x86_64'",
                true,
            ),
            (
                "(sys_platform == 'win32' or python_full_version > '3.5') and os_name == 'posix'",
                true,
            ),
            ("platform_python_implementation != 'PyPy'", true),
            ("extra == 'test'", false),
        ] {
            assert_eq!(applies(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn invalid_markers_are_rejected() {
        let deep = "(".repeat(100_000);
        for text in [
            "",
            "python_version",
            "python_version >= ",
            "python_version >= '3",
            "python_version >= '3' and",
            "python_version >= 'three'",
            "unknown == 'x'",
            "(python_version >= '3'",
            "python_version >= '3')",
            "python_version $ '3'",
            deep.as_str(),
        ] {
            assert!(applies(text).is_err(), "{text}");
        }
    }
}

//! One requirement of a Python package: the part of PEP 508 that an index can answer.

use super::marker;

/// Returns a requirement as a name with extras and version specifiers; `None` if its marker excludes the guest.
///
/// # Errors
/// Returns why the requirement is not supported, as a phrase.
pub(super) fn parse(text: &str) -> Result<Option<String>, String> {
    let (body, condition) = match text.split_once(';') {
        Some((body, condition)) => (body.trim(), Some(condition.trim())),
        None => (text.trim(), None),
    };

    if body.contains("://") || body.contains('@') || body.contains('/') || body.starts_with('.') {
        return Err("URLs and paths are not supported, only packages of the index".into());
    }
    if body.starts_with('-') || body.contains(" --") {
        return Err("options are not supported".into());
    }

    // Specifiers may be in parentheses.
    let body = match body.split_once('(') {
        Some((name, rest)) => {
            let inner = rest.trim_end().strip_suffix(')');
            let inner = inner.ok_or("a closing parenthesis is missing")?;
            format!("{}{}", name.trim_end(), inner.trim())
        }
        None => body.to_owned(),
    };
    if body.is_empty() {
        return Err("the name is missing".into());
    }

    let applies = condition.map_or(Ok(true), marker::applies)?;
    Ok(applies.then_some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_forms() {
        for (text, expected) in [
            ("pandas", Some("pandas")),
            (" pandas[excel] >= 2, < 3 ", Some("pandas[excel] >= 2, < 3")),
            ("six (>=1.16)", Some("six>=1.16")),
            ("tomli>=2; python_version < '3.11'", None),
            ("colorama; sys_platform == \"win32\"", None),
            ("uvloop ; sys_platform != 'win32'", Some("uvloop")),
        ] {
            assert_eq!(parse(text).unwrap().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn unsupported_forms_are_explained() {
        for (text, expected) in [
            ("a @ https://example.com/a.whl", "URLs"),
            ("./a", "paths"),
            ("-e .", "options"),
            ("a==1 --hash=sha256:00", "options"),
            ("a (==1", "parenthesis"),
            ("; python_version > '3'", "name"),
            ("a; x", "marker"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

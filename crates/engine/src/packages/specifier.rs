use std::borrow::Cow;

use fumehood_protocol::Language;

/// Returns a package with a version specifier: one without gets one that the newest version matches.
///
/// Guests require a specifier. A package that is invalid stays invalid.
pub(crate) fn with_specifier(word: &str, language: Language) -> Cow<'_, str> {
    if has_specifier(word, language) {
        return Cow::Borrowed(word);
    }

    let newest = newest_specifier(language);
    Cow::Owned(format!("{}{newest}", word.trim_end_matches(' ')))
}

/// Returns the specifier of the newest version.
pub(crate) fn newest_specifier(language: Language) -> &'static str {
    match language {
        Language::Python | Language::Shell => ">=0",
        Language::Javascript => "@latest",
    }
}

/// Returns whether a package has a version specifier.
pub(crate) fn has_specifier(word: &str, language: Language) -> bool {
    match language {
        Language::Python | Language::Shell => word.contains(['=', '<', '>', '!', '~', '@', ';']),
        // The first character may start a scope.
        Language::Javascript => word.chars().skip(1).any(|c| c == '@'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_without_a_version_get_that_of_the_newest() {
        for (word, language, expected) in [
            ("pandas", Language::Python, "pandas>=0"),
            ("pandas[excel] ", Language::Python, "pandas[excel]>=0"),
            ("pandas~=2.0", Language::Python, "pandas~=2.0"),
            ("lodash", Language::Javascript, "lodash@latest"),
            ("lodash@^4", Language::Javascript, "lodash@^4"),
            ("@types/node", Language::Javascript, "@types/node@latest"),
            ("@types/node@22", Language::Javascript, "@types/node@22"),
        ] {
            assert_eq!(with_specifier(word, language), expected);
        }
    }
}

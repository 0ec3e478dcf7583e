//! Names of files from a guest, in patches and messages.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Returns a path as git writes it: in quotes, with octal escapes, if it contains anything but printable ASCII. It can
/// neither control a terminal nor look like another line or another name.
pub(super) fn quoted(prefix: &str, path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if bytes.iter().all(is_plain) {
        return format!("{prefix}{}", path.display());
    }

    let escaped = |byte: &u8| match byte {
        b'"' => "\\\"".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\t' => "\\t".to_owned(),
        byte if is_plain(byte) => char::from(*byte).to_string(),
        byte => format!("\\{byte:03o}"),
    };
    let escaped: String = bytes.iter().map(escaped).collect();
    format!("\"{prefix}{escaped}\"")
}

/// Returns whether a path contains a control character.
pub(super) fn has_control_characters(path: &Path) -> bool {
    path.to_string_lossy().chars().any(char::is_control)
}

/// Returns whether a path is in git's own directory, on a file system of any kind: case does not matter, nor do the
/// characters and endings that some file systems ignore.
pub(super) fn is_in_git(path: &Path) -> bool {
    path.iter().any(|name| {
        let name = name.to_string_lossy().to_lowercase();
        let seen: String = name.chars().filter(|c| !is_ignored(*c)).collect();
        let seen = seen.split(':').next().unwrap_or_default();
        let seen = seen.trim_end_matches([' ', '.']);
        matches!(seen, ".git" | "git~1")
    })
}

/// Returns whether a character takes no space: it can hide in a name, or change the order in which text is shown.
pub(super) fn is_ignored(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns text for a terminal: characters that control it, or hide or reorder other text, are shown as `<U+001B>`.
pub(super) fn for_terminal(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') || is_ignored(c) {
            shown.push_str(&format!("<U+{:04X}>", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn names_cannot_control_a_terminal_or_forge_a_line() {
        assert_eq!(quoted("a/", Path::new("src/x y.rs")), "a/src/x y.rs");
        let hostile = Path::new(OsStr::from_bytes(b"a\n+\x1b[2J\"\xff"));
        assert_eq!(quoted("b/", hostile), r#""b/a\n+\033[2J\"\377""#);
        assert!(has_control_characters(hostile));
        assert!(!has_control_characters(Path::new("é")));
        assert_eq!(quoted("", Path::new("a\u{202e}b")), r#""a\342\200\256b""#);
        assert_eq!(for_terminal("a\tb\x1b\u{202e}\n"), "a\tb<U+001B><U+202E>\n");
    }

    #[test]
    fn the_directory_of_git_is_recognized_in_every_form() {
        for path in [
            ".git",
            "a/.git/hooks/pre-commit",
            ".GIT/config",
            ".g\u{200c}it/config",
            "git~1/config",
            ".git. /x",
            ".git::$INDEX_ALLOCATION/x",
        ] {
            assert!(is_in_git(Path::new(path)), "{path}");
        }
        for path in [".gitignore", ".github/x", "git/config", "a.git/x"] {
            assert!(!is_in_git(Path::new(path)), "{path}");
        }
    }
}

//! The history of inputs, kept in a file from one session to the next.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fumehood_engine::Language;

/// Maximum number of inputs in a history.
pub(super) const MAX_ENTRIES: usize = 1000;
/// Maximum length of an input in a history, in bytes: longer ones were pasted and would fill the file.
pub(super) const MAX_ENTRY_BYTES: usize = 16 * 1024;

/// Returns the file of a language's history, whose directory exists: `repl-LANGUAGE.history` in
/// `$XDG_STATE_HOME/fumehood`, with `~/.local/state` in place of an unset variable. None without such a directory.
pub(super) fn history_file(language: Language) -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));

    let directory = state?.join("fumehood");
    create_private(&directory).ok()?;
    Some(directory.join(file_name(language)))
}

fn create_private(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// TypeScript and JavaScript are one language at the prompt.
fn file_name(language: Language) -> &'static str {
    match language {
        Language::Python => "repl-python.history",
        Language::Shell => "repl-shell.history",
        _ => "repl-javascript.history",
    }
}

//! Paths in the arguments of `--upload` and `--download`, and in a VM.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::bail;
use fumehood_engine::{FileKind, Files};

/// Splits `SOURCE[:DESTINATION]` at the last colon. An empty destination counts as none, so that a name may contain
/// colons if it ends in one more.
pub(crate) fn split_argument(arg: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = arg.as_bytes();
    let Some(colon) = bytes.iter().rposition(|byte| *byte == b':') else {
        return (arg, None);
    };

    let (source, destination) = (&bytes[..colon], &bytes[colon + 1..]);
    let destination = (!destination.is_empty()).then(|| OsStr::from_bytes(destination));
    (OsStr::from_bytes(source), destination)
}

/// Returns a path as text.
///
/// # Errors
/// The path is not valid UTF-8, as paths in the VM must be.
pub(crate) fn to_text(path: &OsStr) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!(
            "{} is not valid UTF-8; paths in the VM must be",
            path.display()
        ),
    }
}

/// Returns whether a path names a directory whatever exists there: it ends in `/`, `.` or `..`.
pub(crate) fn names_directory(path: &OsStr) -> bool {
    let last = path.as_bytes().rsplit(|byte| *byte == b'/').next();
    matches!(last, Some(b"" | b"." | b".."))
}

/// Returns whether a directory exists at a path of the VM, following links.
pub(super) async fn is_remote_directory(files: &Files, path: &str) -> bool {
    let info = files.stat(&format!("{path}/.")).await;
    info.is_ok_and(|info| info.kind == FileKind::Directory)
}

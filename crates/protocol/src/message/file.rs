//! Files of the guest: read, write, list, rename, remove, watch.

use serde::{Deserialize, Serialize};

use super::envelope::{is_false, request, response};
use crate::error::{ErrorType, WireError};
use crate::limits::Limits;
use crate::value::GuestPath;

request! {
    /// Writes a file. Its content follows by `stdin` or `data`, up to their `eof`. The file is replaced
    /// atomically: it has either all the new content or the old one. The agent answers with `transferred`.
    WriteFile {
        /// The path. A link at the path itself is replaced, not followed.
        path: GuestPath,
        /// The permissions, 0 to 0o7777; none = those of the file that it replaces, else 0o644.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// The number of bytes that will follow, if known. Free space is then checked before the first byte.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// Creates missing parent directories.
        #[serde(default, skip_serializing_if = "is_false")]
        parents: bool,
    }
}

request! {
    /// Reads a regular file. The agent answers with `file` or `data`, then `transferred`.
    ReadFile {
        /// The path.
        path: GuestPath,
        /// The first byte to read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        /// The maximum number of bytes; none = to the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        len: Option<u64>,
        /// Bytes of output that may be sent before the first `credit`, as in `exec`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
    }
}

request! {
    /// Lists a directory. The agent answers with `entries`, the last of them with `last`.
    ListFiles {
        /// The path.
        path: GuestPath,
        /// The depth: 1 = only the entries of the directory itself, which is the default. Links are not
        /// followed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        depth: Option<u32>,
    }
}

request! {
    /// Returns the metadata of a file. The agent answers with `entry`. A link at the path itself is not
    /// followed.
    Stat {
        /// The path.
        path: GuestPath,
    }
}

request! {
    /// Creates a directory. The agent answers with `done`.
    MakeDir {
        /// The path.
        path: GuestPath,
        /// Creates missing parent directories, and succeeds if the directory exists.
        #[serde(default, skip_serializing_if = "is_false")]
        parents: bool,
        /// The permissions, 0 to 0o7777; none = 0o755.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    }
}

request! {
    /// Renames a file or a directory. The agent answers with `done`.
    MoveFile {
        /// The old path.
        from: GuestPath,
        /// The new path.
        to: GuestPath,
        /// Replaces a file at the new path; otherwise, an existing file is an error.
        #[serde(default, skip_serializing_if = "is_false")]
        replace: bool,
    }
}

request! {
    /// Removes a file, a link or an empty directory. The agent answers with `done`.
    RemoveFile {
        /// The path.
        path: GuestPath,
        /// Removes a directory with all its content.
        #[serde(default, skip_serializing_if = "is_false")]
        recursive: bool,
    }
}

request! {
    /// Reports changes in a directory, or of a file, until it is cancelled. The agent answers with
    /// `watching`, `change`s, then `done`.
    Watch {
        /// The path.
        path: GuestPath,
        /// Includes subdirectories.
        #[serde(default, skip_serializing_if = "is_false")]
        recursive: bool,
    }
}

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a socket or a pipe.
    Other,
}

/// The metadata of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileInfo {
    /// The path: as in the request, or relative to the listed directory. Invalid UTF-8 is replaced by
    /// U+FFFD; only programs can reach such a file.
    pub path: String,
    /// The type.
    pub kind: FileKind,
    /// The size in bytes.
    pub size: u64,
    /// The permissions, 0 to 0o7777.
    pub mode: u32,
    /// The user id of the owner.
    pub user: u32,
    /// When the content was last changed, in microseconds since 1970-01-01 00:00 UTC.
    pub modified_us: i64,
    /// The target of a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

response! {
    /// The answer to `stat`.
    Entry {
        /// The metadata of the file.
        entry: FileInfo,
    }
}

response! {
    /// Some entries of a directory, in no order.
    Entries {
        /// The entries, at most some hundred.
        entries: Vec<FileInfo>,
        /// These are the last entries.
        last: bool,
        /// The directory has more than `list_entries` entries, and the rest was left out.
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    }
}

response! {
    /// The end of an operation that has no further result.
    Done {}
}

response! {
    /// The end of a file transfer: the whole file was written or read.
    Transferred {
        /// The number of bytes.
        bytes: u64,
        /// The CRC-32C (Castagnoli) of those bytes.
        crc32c: u32,
        /// The permissions of the file.
        mode: u32,
    }
}

response! {
    /// Changes are reported from here on.
    Watching {}
}

response! {
    /// A file has changed.
    Change {
        /// The kind of change.
        kind: ChangeKind,
        /// The path relative to the watched one; empty for the watched path itself.
        path: String,
    }
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The file was created, or moved to here.
    Created,
    /// Its content was changed.
    Modified,
    /// Its permissions, times or owner were changed.
    Attributes,
    /// It was removed, or moved away.
    Removed,
    /// More changes happened than could be reported: rescan everything.
    Overflow,
}

/// The maximum value of permissions.
const MAX_MODE: u32 = 0o7777;

fn check_mode(mode: Option<u32>) -> Result<(), WireError> {
    match mode.filter(|mode| *mode > MAX_MODE) {
        None => Ok(()),
        Some(mode) => {
            let message = format!("field `mode`: {mode:#o}; 0 to {MAX_MODE:#o} are allowed");
            Err(WireError::new(ErrorType::PathError, message))
        }
    }
}

impl WriteFile {
    /// Validates the request against the limits.
    ///
    /// # Errors
    /// `path_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        self.path.check(limits)?;
        check_mode(self.mode)?;
        match self.size.filter(|size| *size > limits.file_bytes) {
            None => Ok(()),
            Some(size) => Err(too_large(size, limits)),
        }
    }
}

/// Returns the error for a file of this size, in bytes.
#[must_use]
pub fn too_large(size: u64, limits: &Limits) -> WireError {
    let max = limits.file_bytes;
    let message =
        format!("the file has {size} bytes; at most {max} are allowed (limit file_bytes)");
    WireError::new(ErrorType::PathError, message)
}

impl MakeDir {
    /// Validates the request against the limits.
    ///
    /// # Errors
    /// `path_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        self.path.check(limits)?;
        check_mode(self.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ActionTag;

    #[test]
    fn files_at_the_limits_and_past_them() {
        let limits = Limits::default();
        let write = |mode, size| WriteFile {
            action: ActionTag,
            op_id: None,
            path: GuestPath::new("a"),
            mode,
            size,
            parents: false,
        };

        assert!(
            write(Some(0o7777), Some(limits.file_bytes))
                .check(&limits)
                .is_ok()
        );

        let result = write(None, Some(limits.file_bytes + 1)).check(&limits);
        assert!(result.unwrap_err().message.contains("file_bytes"));
        let result = write(Some(0o10000), None).check(&limits);
        assert!(result.unwrap_err().message.contains("0o10000"));
    }
}

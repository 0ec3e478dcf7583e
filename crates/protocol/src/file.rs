use serde::{Deserialize, Serialize};

use crate::message::{is_false, request, response};
use crate::{ActionTag, ErrorType, GuestPath, Limits, OpId, WireError};

request! {
    /// Writes a file; its content comes by `stdin` or `data` up to their `eof`. The file is there with all
    /// of its content, or as it was before. Answered by `transferred`.
    WriteFile {
        /// Where. A link at the path itself is replaced, not followed.
        path: GuestPath,
        /// Its permissions, 0 to 0o7777; none = those of the file that it replaces, else 0o644.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// How many bytes will come, where that is known: room is looked for before the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// Makes the directories that are missing on the way.
        #[serde(default, skip_serializing_if = "is_false")]
        parents: bool,
    }
}

request! {
    /// Reads a regular file; answered by `file` or `data`, then `transferred`.
    ReadFile {
        /// Which.
        path: GuestPath,
        /// The first byte that is wanted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        /// How many bytes at most; none = to the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        len: Option<u64>,
        /// As in `exec`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
    }
}

request! {
    /// Lists a directory; answered by `entries`, the last of them with `last`.
    ListFiles {
        /// Which.
        path: GuestPath,
        /// How deep: 1 = the directory's own entries, which is what none means; links are not followed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        depth: Option<u32>,
    }
}

request! {
    /// Tells what is at a path; answered by `entry`. A link at the path itself is not followed.
    Stat {
        /// Which.
        path: GuestPath,
    }
}

request! {
    /// Makes a directory; answered by `done`.
    MakeDir {
        /// Where.
        path: GuestPath,
        /// Makes those that are missing on the way, and is content with one that is there.
        #[serde(default, skip_serializing_if = "is_false")]
        parents: bool,
        /// Its permissions, 0 to 0o7777; none = 0o755.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    }
}

request! {
    /// Gives a file or directory another name; answered by `done`.
    MoveFile {
        /// What.
        from: GuestPath,
        /// Its new name.
        to: GuestPath,
        /// Takes the place of a file that has that name; without it, that is an error.
        #[serde(default, skip_serializing_if = "is_false")]
        replace: bool,
    }
}

request! {
    /// Removes a file, a link or an empty directory; answered by `done`.
    RemoveFile {
        /// What.
        path: GuestPath,
        /// A directory with all that is in it.
        #[serde(default, skip_serializing_if = "is_false")]
        recursive: bool,
    }
}

request! {
    /// Tells what changes in a directory, or of a file, until it is cancelled: answered by `watching`,
    /// `change`s, then `done`.
    Watch {
        /// Which.
        path: GuestPath,
        /// The directories below as well.
        #[serde(default, skip_serializing_if = "is_false")]
        recursive: bool,
    }
}

/// What kind of thing is at a path.
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
    /// A device, a socket, a pipe.
    Other,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileInfo {
    /// Its path: as it was asked for, or below the directory that is listed. Bytes that are no UTF-8 are
    /// U+FFFD; such a file can be reached by programs alone.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes.
    pub size: u64,
    /// Its permissions, 0 to 0o7777.
    pub mode: u32,
    /// Its owner's number.
    pub user: u32,
    /// When its content was changed last: microseconds since 1970-01-01 00:00 UTC.
    pub modified_us: i64,
    /// Where a link leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

response! {
    /// Answer to `stat`.
    Entry {
        /// What is there.
        entry: FileInfo,
    }
}

response! {
    /// Some of a directory's entries, in no order.
    Entries {
        /// At most some hundred.
        entries: Vec<FileInfo>,
        /// There are no more.
        last: bool,
        /// There are more than `list_entries`: the rest was left out.
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    }
}

response! {
    /// The end of an operation that has nothing else to tell.
    Done {}
}

response! {
    /// The end of a file's way: all of it was written, or read.
    Transferred {
        /// How many bytes.
        bytes: u64,
        /// CRC-32C (Castagnoli) of those bytes.
        crc32c: u32,
        /// The file's permissions.
        mode: u32,
    }
}

response! {
    /// From here on changes are told.
    Watching {}
}

response! {
    /// Something has changed.
    Change {
        /// What happened.
        kind: ChangeKind,
        /// Where, below the path that is watched; empty for that itself.
        path: String,
    }
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was made, or moved to here.
    Created,
    /// Its content was changed.
    Modified,
    /// Its permissions, times or owner were changed.
    Attributes,
    /// It was removed, or moved away.
    Removed,
    /// More happened than could be told: look at all of it again.
    Overflow,
}

/// The most that permissions can be.
const MODE: u32 = 0o7777;

fn check_mode(mode: Option<u32>) -> Result<(), WireError> {
    match mode.filter(|mode| *mode > MODE) {
        None => Ok(()),
        Some(mode) => {
            let message = format!("field `mode`: {mode:#o}; 0 to {MODE:#o} are allowed");
            Err(WireError::new(ErrorType::PathError, message))
        }
    }
}

impl WriteFile {
    /// Refuses what is past a limit.
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

/// The refusal of a file of this size, in bytes.
#[must_use]
pub fn too_large(size: u64, limits: &Limits) -> WireError {
    let most = limits.file_bytes;
    let message = format!("a file of {size} bytes; at most {most} are allowed (limit file_bytes)");
    WireError::new(ErrorType::PathError, message)
}

impl MakeDir {
    /// Refuses what is past a limit.
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
        let past = write(None, Some(limits.file_bytes + 1)).check(&limits);
        assert!(past.unwrap_err().message.contains("file_bytes"));
        let past = write(Some(0o10000), None).check(&limits);
        assert!(past.unwrap_err().message.contains("0o10000"));
    }
}

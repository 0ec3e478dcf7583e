//! The files that a copy of a directory left out.

use serde::{Deserialize, Serialize};

use crate::error::printable;

/// Maximum number of files that are listed one by one; the rest is counted.
const MAX_LISTED: usize = 100;

/// Maximum length of a listed path, in characters.
const MAX_PATH_CHARS: usize = 1024;

/// The files that a copy of a directory left out, or could not copy completely.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct SkippedFiles {
    /// The number of all such files.
    pub count: u64,
    /// How many of them have content that could not be read or written. The others are of kinds that are never copied,
    /// such as sockets.
    pub failed: u64,
    /// The first 100 of them.
    pub files: Vec<SkippedFile>,
}

/// A file that was not copied, or not completely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct SkippedFile {
    /// The path, relative to the directory that was copied; for an upload, the path on this host. Control characters and
    /// bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Why the file was skipped.
    pub reason: String,
}

impl SkippedFiles {
    /// Returns whether everything was copied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a file of a kind that is never copied.
    pub(crate) fn add_uncopied(&mut self, path: &[u8], reason: &str) {
        self.count += 1;
        if self.files.len() >= MAX_LISTED {
            return;
        }

        // A name may contain line ends, which must not forge a line of a report.
        let path = printable(&String::from_utf8_lossy(path));
        let path = path.replace('\n', "\u{fffd}");
        self.files.push(SkippedFile {
            path: path.chars().take(MAX_PATH_CHARS).collect(),
            reason: printable(reason).replace('\n', " "),
        });
    }

    /// Adds a file with content that could not be read or written.
    pub(crate) fn add_failed(&mut self, path: &[u8], reason: &str) {
        self.failed += 1;
        self.add_uncopied(path, reason);
    }

    /// Adds the files of another copy.
    pub(crate) fn append(&mut self, other: Self) {
        self.count += other.count;
        self.failed += other.failed;
        let free = MAX_LISTED - self.files.len().min(MAX_LISTED);
        self.files.extend(other.files.into_iter().take(free));
    }

    /// Adds a directory in front of the path of each file.
    pub(crate) fn below(mut self, directory: &str) -> Self {
        let directory = printable(directory).replace('\n', "\u{fffd}");
        let directory = directory.trim_end_matches('/');
        for file in &mut self.files {
            file.path = format!("{directory}/{}", file.path);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_the_count_is_not() {
        let mut skipped = SkippedFiles::default();
        for _ in 0..MAX_LISTED {
            skipped.add_uncopied(b"a", "a socket");
        }
        assert_eq!(skipped.files.len(), MAX_LISTED);

        skipped.add_failed(b"b", "unreadable");
        assert_eq!(skipped.files.len(), MAX_LISTED);
        assert_eq!((skipped.count, skipped.failed), (101, 1));

        let mut all = SkippedFiles::default();
        all.add_failed(b"c", "unreadable");
        all.append(skipped);
        assert_eq!((all.count, all.failed), (102, 2));
        assert_eq!(all.files.len(), MAX_LISTED);
        assert_eq!(all.files[0].path, "c");
    }

    #[test]
    fn names_are_shown_on_one_line_and_are_bounded() {
        let mut skipped = SkippedFiles::default();
        skipped.add_uncopied(b"a\nfumehood: \x1b[2J\xff", "a\nb");
        skipped.add_uncopied(&[b'x'; 5000], "long");

        let skipped = skipped.below("dir/");
        assert_eq!(
            skipped.files[0].path,
            "dir/a\u{fffd}fumehood: \u{fffd}[2J\u{fffd}"
        );
        assert_eq!(skipped.files[0].reason, "a b");
        assert_eq!(skipped.files[1].path.len(), MAX_PATH_CHARS + 4);
    }
}

//! Changes as a patch in git's format, which people review and `git apply` understands.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use similar::TextDiff;

use super::changes::Change;
use super::host_folder::HostFolder;
use super::names::{for_terminal, quoted};
use super::tree::Entry;

/// Size from which files are not compared line by line, in bytes.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;
/// Time for the comparison of two files. After it, the patch is correct, but longer than necessary.
const DIFF_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the contents are, and how to write them.
pub(super) struct PatchSource<'a> {
    /// The folder on this host.
    pub(super) host: &'a HostFolder,
    /// A private copy of the guest's folder.
    pub(super) copy: &'a HostFolder,
    /// Whether the patch is shown by a terminal: then no content can control it.
    pub(super) is_terminal: bool,
}

/// Writes changes as a patch.
///
/// # Errors
/// It cannot be written, or a file cannot be read.
pub(super) fn write_patch(
    changes: &[Change],
    source: &PatchSource<'_>,
    to: &mut impl Write,
) -> io::Result<()> {
    for change in changes {
        let text = source.patch(change)?;
        let text = match source.is_terminal {
            true => for_terminal(&text),
            false => text,
        };
        to.write_all(text.as_bytes())?;
    }
    to.flush()
}

/// A file or a link, as git sees it.
struct Side {
    mode: &'static str,
    content: Content,
}

enum Content {
    Text(String),
    /// A file that is not text, or large; with its size in bytes.
    Binary(u64),
}

impl PatchSource<'_> {
    fn patch(&self, change: &Change) -> io::Result<String> {
        let path = &change.path;
        let before = self.side(self.host, path, change.before.as_ref())?;
        let after = self.side(self.copy, path, change.after.as_ref())?;

        // Git knows no directories. The lines are comments for it.
        let is_directory = |entry: &Option<Entry>| *entry == Some(Entry::Directory);
        let mut patch = String::new();
        if is_directory(&change.before) {
            patch.push_str(&format!("deleted directory {}\n", quoted("", path)));
        }
        if is_directory(&change.after) {
            patch.push_str(&format!("new directory {}\n", quoted("", path)));
        }

        // A change of the type is a deletion and a creation, as in git.
        match (before, after) {
            (Some(before), Some(after)) if is_same_type(&before, &after) => {
                patch.push_str(&file_patch(path, Some(&before), Some(&after)));
            }
            (before, after) => {
                if before.is_some() {
                    patch.push_str(&file_patch(path, before.as_ref(), None));
                }
                if after.is_some() {
                    patch.push_str(&file_patch(path, None, after.as_ref()));
                }
            }
        }
        Ok(patch)
    }

    fn side(
        &self,
        folder: &HostFolder,
        path: &Path,
        entry: Option<&Entry>,
    ) -> io::Result<Option<Side>> {
        Ok(match entry {
            None | Some(Entry::Directory) => None,
            Some(Entry::Link { target }) => Some(Side {
                mode: "120000",
                content: match target.to_str() {
                    Some(target) => Content::Text(target.to_owned()),
                    None => Content::Binary(target.as_os_str().len() as u64),
                },
            }),
            Some(Entry::File {
                size,
                is_executable,
                ..
            }) => Some(Side {
                mode: if *is_executable { "100755" } else { "100644" },
                content: read_content(folder.open_file(path)?, *size)?,
            }),
        })
    }
}

fn is_same_type(before: &Side, after: &Side) -> bool {
    (before.mode == "120000") == (after.mode == "120000")
}

fn read_content(file: File, size: u64) -> io::Result<Content> {
    if size > MAX_TEXT_BYTES {
        return Ok(Content::Binary(size));
    }

    let mut bytes = Vec::new();
    file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Content::Text(text),
        _ => Content::Binary(size),
    })
}

fn file_patch(path: &Path, before: Option<&Side>, after: Option<&Side>) -> String {
    let (old, new) = (quoted("a/", path), quoted("b/", path));
    let mut patch = format!("diff --git {old} {new}\n");
    match (before, after) {
        (None, Some(after)) => patch.push_str(&format!("new file mode {}\n", after.mode)),
        (Some(before), None) => patch.push_str(&format!("deleted file mode {}\n", before.mode)),
        (Some(before), Some(after)) if before.mode != after.mode => {
            patch.push_str(&format!(
                "old mode {}\nnew mode {}\n",
                before.mode, after.mode
            ));
        }
        _ => {}
    }

    let text = |side: Option<&Side>| match side.map(|side| &side.content) {
        None => Some(String::new()),
        Some(Content::Text(text)) => Some(text.clone()),
        Some(Content::Binary(_)) => None,
    };
    let old = if before.is_some() {
        old
    } else {
        "/dev/null".into()
    };
    let new = if after.is_some() {
        new
    } else {
        "/dev/null".into()
    };
    if let (Some(before), Some(after)) = (text(before), text(after)) {
        let diff = TextDiff::configure()
            .timeout(DIFF_TIMEOUT)
            .diff_lines(before.as_str(), after.as_str());
        let mut unified = diff.unified_diff();
        patch.push_str(&unified.header(&old, &new).to_string());
    } else {
        let size = |side: Option<&Side>| match side.map(|side| &side.content) {
            None => 0,
            Some(Content::Text(text)) => text.len() as u64,
            Some(Content::Binary(size)) => *size,
        };
        let (from, to) = (size(before), size(after));
        patch.push_str(&format!(
            "Binary files {old} and {new} differ ({from} and {to} bytes)\n"
        ));
    }
    patch
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use fumehood_engine::SkippedFiles;

    use super::super::changes::Comparison;
    use super::super::tree::scan;
    use super::*;

    #[test]
    fn a_patch_has_gits_format_and_cannot_control_a_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let (host, guest) = (dir.path().join("host"), dir.path().join("guest"));
        for root in [&host, &guest] {
            std::fs::create_dir_all(root.join("old")).unwrap();
            std::fs::write(root.join("a"), "one\ntwo\n").unwrap();
            std::fs::write(root.join("bin"), b"\0").unwrap();
            std::fs::write(root.join("run"), "run").unwrap();
            std::fs::write(root.join("t"), "text\n").unwrap();
        }
        let before = scan(&host).unwrap().tree;
        std::fs::write(guest.join("a"), "one\nzwei\x1b[2J\u{202e}\n").unwrap();
        std::fs::write(guest.join("bin"), b"\0\0").unwrap();
        std::fs::set_permissions(guest.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::remove_dir(guest.join("old")).unwrap();
        std::fs::create_dir(guest.join("new dir")).unwrap();
        std::fs::write(guest.join("new dir/é"), "x").unwrap();
        std::fs::remove_file(guest.join("t")).unwrap();
        symlink("a", guest.join("t")).unwrap();

        let after = scan(&guest).unwrap().tree;
        let host = HostFolder::open(&host).unwrap();
        let comparison = Comparison {
            before: &before,
            after: &after,
            skipped: &SkippedFiles::default(),
            host: &host,
            include_git: false,
        };
        let differences = comparison.differences().unwrap();
        let patch = |is_terminal| {
            let source = PatchSource {
                host: &host,
                copy: &HostFolder::open(&guest).unwrap(),
                is_terminal,
            };
            let mut patch = Vec::new();
            write_patch(&differences.changes, &source, &mut patch).unwrap();
            String::from_utf8(patch).unwrap()
        };

        let expected = "\
diff --git a/a b/a
--- a/a
+++ b/a
@@ -1,2 +1,2 @@
 one
-two
+zwei<U+001B>[2J<U+202E>
diff --git a/bin b/bin
Binary files a/bin and b/bin differ (1 and 2 bytes)
new directory new dir
diff --git \"a/new dir/\\303\\251\" \"b/new dir/\\303\\251\"
new file mode 100644
--- /dev/null
+++ \"b/new dir/\\303\\251\"
@@ -0,0 +1 @@
+x
\\ No newline at end of file
deleted directory old
diff --git a/run b/run
old mode 100644
new mode 100755
diff --git a/t b/t
deleted file mode 100644
--- a/t
+++ /dev/null
@@ -1 +0,0 @@
-text
diff --git a/t b/t
new file mode 120000
--- /dev/null
+++ b/t
@@ -0,0 +1 @@
+a
\\ No newline at end of file
";
        assert_eq!(patch(true), expected);
        assert!(patch(false).contains("+zwei\x1b[2J\u{202e}\n"));
    }
}

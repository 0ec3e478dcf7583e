//! The guest's own `tar`: its command lines, and its messages about single files.

use bytes::Bytes;

use crate::error::{Error, ErrorKind, printable};
use crate::run::{Event, Run, SkippedFiles, SpawnRequest};

/// Maximum output of the guest's tar in an error message, in bytes.
const MAX_MESSAGE_BYTES: usize = 2000;
/// Maximum size of all messages of the guest's tar, in bytes: one about each of 100,000 files.
const MAX_MESSAGES_BYTES: usize = 32 * 1024 * 1024;
/// Maximum length of a line of the guest's tar that is read, in bytes: a path of 4 KiB in which each byte is escaped.
const MAX_LINE_BYTES: usize = 20 * 1024;

/// Returns the request for a tar that unpacks its input into a directory.
pub(super) fn unpacking(to: &str) -> SpawnRequest {
    // A file may be dated before 1970 or after today: that is no reason for a warning.
    let argv = [
        "tar",
        "-x",
        "-f",
        "-",
        "--no-same-owner",
        "--warning=no-timestamp",
    ];
    SpawnRequest::new(argv).env("LC_ALL", "C").cwd(to).stdin()
}

/// Returns the request for a tar that packs a directory.
pub(super) fn packing(from: &str) -> SpawnRequest {
    // Quoted names keep each message on one line.
    let argv = [
        "tar",
        "-c",
        "-f",
        "-",
        "--format=gnu",
        "--sort=name",
        "--sparse",
        "--quoting-style=escape",
        ".",
    ];
    SpawnRequest::new(argv).env("LC_ALL", "C").cwd(from)
}

/// The problems that a tar may report without failing as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tolerance {
    /// None: a file that it cannot unpack is an error.
    None,
    /// Files that it could not pack.
    UnreadableFiles,
}

/// Follows a tar to its end. Its output goes to `take`, until that returns `false`. Returns the files that tar reported
/// as not packed. The caller limits the time.
///
/// # Errors
/// Tar failed for a reason that is not tolerated, or prints messages without end.
pub(super) async fn follow<F>(
    mut run: Run,
    tolerance: Tolerance,
    mut take: impl FnMut(Bytes) -> F,
) -> Result<SkippedFiles, Error>
where
    F: Future<Output = bool>,
{
    let mut messages = Messages::default();
    while let Some(event) = run.next().await {
        match event {
            Event::Stdout(bytes) => {
                let is_taken = take(bytes).await;
                if !is_taken {
                    run.canceller().cancel();
                }
            }
            Event::Stderr(bytes) => {
                messages.add(&bytes);
                if messages.bytes > MAX_MESSAGES_BYTES {
                    let message = format!(
                        "the guest's tar printed more than {MAX_MESSAGES_BYTES} bytes of messages"
                    );
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
            }
            _ => {}
        }
    }

    // 1: files changed while they were read. 2: files could not be read, or another error.
    let outcome = run.outcome().await?;
    let is_tolerated = match (outcome.exit_code, tolerance) {
        (Some(0), _) | (Some(1), Tolerance::UnreadableFiles) => true,
        (Some(2), Tolerance::UnreadableFiles) => messages.explains_failure(),
        _ => false,
    };
    if is_tolerated {
        return Ok(messages.skipped);
    }

    // The error of tar is the best explanation.
    let (ended_by, code) = (outcome.ended_by, outcome.exit_code);
    let stderr = printable(&String::from_utf8_lossy(&messages.start));
    let message = format!(
        "the guest's tar failed ({ended_by}, exit code {code:?}): {}",
        stderr.trim_end()
    );

    Err(Error::new(ErrorKind::Invalid, message))
}

/// The messages of a tar.
#[derive(Debug, Default)]
struct Messages {
    /// Their size.
    bytes: usize,
    /// The first of them, for an error.
    start: Vec<u8>,
    /// The line that is being received.
    line: Vec<u8>,
    skipped: SkippedFiles,
    /// Whether there was a message that is about no file.
    has_other: bool,
}

impl Messages {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        let free = MAX_MESSAGE_BYTES - self.start.len();
        self.start
            .extend_from_slice(&bytes[..bytes.len().min(free)]);

        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let free = MAX_LINE_BYTES - self.line.len();
            self.line.extend_from_slice(&piece[..piece.len().min(free)]);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.add_line(line.trim_ascii_end());
            }
        }
    }

    fn add_line(&mut self, line: &[u8]) {
        let Some((path, reason)) = split_message(line) else {
            self.has_other |= !line.ends_with(b"due to previous errors");
            return;
        };

        let reason = String::from_utf8_lossy(reason);
        match reason.as_ref() {
            "socket ignored" => self.skipped.add_uncopied(&path, "a socket"),
            "file changed as we read it" => {}
            "File removed before we read it" => {
                self.skipped
                    .add_uncopied(&path, "removed while the directory was copied");
            }
            reason if reason.contains("padding with zeros") => {
                let reason = "shortened while it was copied; the rest of the copy is zeros";
                self.skipped.add_failed(&path, reason);
            }
            reason => {
                let reason = reason.strip_prefix("Warning: ").unwrap_or(reason);
                self.skipped.add_failed(&path, reason);
            }
        }
    }

    /// Returns whether the messages are only about files, so that everything else was packed.
    fn explains_failure(&self) -> bool {
        self.skipped.failed > 0 && !self.has_other
    }
}

/// Splits a message about a path, `tar: ./PATH: REASON`, and removes the quoting of the path.
fn split_message(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let quoted = line.strip_prefix(b"tar: ")?;
    if !quoted.starts_with(b".") {
        return None;
    }

    let mut path = Vec::new();
    let mut rest = quoted;
    loop {
        match rest {
            [b':', b' ', reason @ ..] => {
                let path = path.strip_prefix(b"./").unwrap_or(&path).to_vec();
                return Some((path, reason));
            }
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                more @ ..,
            ] => {
                path.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = more;
            }
            [b'\\', escaped, more @ ..] => {
                path.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    other => *other,
                });
                rest = more;
            }
            [byte, more @ ..] => {
                path.push(*byte);
                rest = more;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(pieces: &[&[u8]]) -> Messages {
        let mut messages = Messages::default();
        for piece in pieces {
            messages.add(piece);
        }
        messages
    }

    #[test]
    fn messages_about_files_are_parsed() {
        let messages = messages(&[
            b"tar: ./a/so",
            b"ck: socket ignored\ntar: ./b\\: c\\n\\303\\251: Cannot open: Permission denied\n",
            b"tar: ./log: file changed as we read it\n",
            b"tar: ./gone: File removed before we read it\n",
            b"tar: Exiting with failure status due to previous errors\n",
        ]);

        let files = &messages.skipped.files;
        let all: Vec<_> = files
            .iter()
            .map(|file| (file.path.as_str(), file.reason.as_str()))
            .collect();
        assert_eq!(
            all,
            [
                ("a/sock", "a socket"),
                ("b: c\u{fffd}é", "Cannot open: Permission denied"),
                ("gone", "removed while the directory was copied"),
            ]
        );
        assert_eq!(messages.skipped.failed, 1);
        assert!(messages.explains_failure());
    }

    #[test]
    fn other_messages_are_failures_of_tar() {
        let written = messages(&[
            b"tar: ./a: Cannot open: Permission denied\ntar: -: Wrote only 2048 of 10240 bytes\n",
        ]);
        assert!(!written.explains_failure());

        let none = messages(&[b"tar: Exiting with failure status due to previous errors\n"]);
        assert!(!none.explains_failure());
    }

    #[test]
    fn a_hostile_tar_cannot_fill_the_memory() {
        let mut messages = Messages::default();
        for _ in 0..1000 {
            messages.add(&[b'x'; 4096]);
        }
        assert_eq!(messages.start.len(), MAX_MESSAGE_BYTES);
        assert_eq!(messages.line.len(), MAX_LINE_BYTES);
    }
}

use std::fmt;

/// What kind of trouble an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is not allowed: a limit, a value, a name.
    Invalid,
    /// Something that must be installed or built first is not there: QEMU, the image.
    Missing,
    /// Something is there and damaged: a part of the image.
    Damaged,
    /// This host does not permit it, or gives no more of something: memory, processes, disk.
    Host,
    /// A package index was not reached, or what it was asked for did not come in time.
    Unreachable,
    /// No room within the time that a request may wait.
    Busy,
    /// What goes on in the sandbox, or in its context, does not allow it now.
    InUse,
    /// The VM did not start, or its agent did not answer in time.
    Boot,
    /// The guest broke the protocol.
    Protocol,
    /// The VM or its agent went away.
    Lost,
}

/// Whether asking again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The code has not run: the same request can be made again.
    Safe,
    /// The same request will fail again until something is changed.
    Never,
    /// The code may have run.
    Unknown,
}

/// Why a run gave no outcome. Its text says what failed, why, and what to do.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    started: bool,
    errno: Option<i32>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            started: false,
            errno: None,
            message: printable(&message.into()),
            source: None,
        }
    }

    pub(crate) fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The guest's kernel gave this number.
    pub(crate) fn with_errno(mut self, errno: Option<i32>) -> Self {
        self.errno = errno;
        self
    }

    /// What went wrong with a file in the guest, where it was that.
    #[must_use]
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        let errno = self.errno?;
        Some(std::io::Error::from_raw_os_error(errno).kind())
    }

    /// The code had been handed to the guest.
    pub(crate) fn after_start(mut self) -> Self {
        self.started = true;
        self
    }

    /// What kind of trouble it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether asking again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self.kind {
            ErrorKind::Invalid | ErrorKind::Missing | ErrorKind::Damaged => Retry::Never,
            _ if self.started => Retry::Unknown,
            ErrorKind::Host
            | ErrorKind::Busy
            | ErrorKind::InUse
            | ErrorKind::Unreachable
            | ErrorKind::Boot
            | ErrorKind::Protocol
            | ErrorKind::Lost => Retry::Safe,
        }
    }
}

/// The most of a message that is kept, in characters: parts of it may be a guest's words.
const MESSAGE_CHARS: usize = 4096;

/// A text that is safe to show on a terminal, whoever wrote it.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() && c != '\n' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().take(MESSAGE_CHARS).map(shown).collect()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_words_cannot_steer_a_terminal_or_fill_it() {
        let error = Error::new(
            ErrorKind::Lost,
            format!("\u{1b}]0;title\u{7}{}", "x".repeat(10_000)),
        );
        assert!(error.to_string().starts_with("\u{fffd}]0;title\u{fffd}x"));
        assert_eq!(error.to_string().chars().count(), MESSAGE_CHARS);
    }

    #[test]
    fn the_verdict_knows_whether_code_may_have_run() {
        assert_eq!(Error::new(ErrorKind::Lost, "x").retry(), Retry::Safe);
        assert_eq!(
            Error::new(ErrorKind::Lost, "x").after_start().retry(),
            Retry::Unknown
        );
        assert_eq!(
            Error::new(ErrorKind::Invalid, "x").after_start().retry(),
            Retry::Never
        );
    }
}

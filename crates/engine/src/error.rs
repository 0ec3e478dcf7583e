use std::fmt;

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

/// The kind of an [`Error`]. In JSON: the variant's name in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is not allowed: a limit, a value, a name.
    Invalid,
    /// Something that must be installed or built first is missing: QEMU, the image.
    Missing,
    /// Something is damaged: a file of the image.
    Damaged,
    /// This host does not permit something, or is short of it: memory, processes, disk.
    Host,
    /// A package index could not be reached, or did not answer in time.
    Unreachable,
    /// No capacity within the time that a request may wait.
    Busy,
    /// Another operation in the sandbox or its context does not allow it now.
    InUse,
    /// The VM did not start, or its agent did not answer in time.
    Boot,
    /// The guest violated the protocol.
    Protocol,
    /// The VM or its agent was lost.
    Lost,
}

impl ErrorKind {
    /// Returns the name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Host => "host",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::InUse => "in_use",
            Self::Boot => "boot",
            Self::Protocol => "protocol",
            Self::Lost => "lost",
        }
    }
}

/// Whether the same request can be made again. In JSON: `safe`, `never` or `unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The code has not run: the same request can be made again.
    Safe,
    /// The same request fails again until something is changed.
    // Records of earlier versions have the old name.
    #[serde(alias = "useless")]
    Never,
    /// The code may have run.
    Unknown,
}

impl Retry {
    /// Returns the name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Never => "never",
            Self::Unknown => "unknown",
        }
    }
}

/// The error of an engine. Its message says what failed, why, and how to fix it.
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
        let mut message = printable(&message.into());
        let is_of_host = matches!(kind, ErrorKind::Host | ErrorKind::Boot);
        if is_of_host && message.contains(DESCRIPTORS_EXHAUSTED) {
            message = format!("{message}; {}", describe_descriptor_limit());
        }

        Self {
            kind,
            started: false,
            errno: None,
            message,
            source: None,
        }
    }

    /// Puts the action that failed before the message.
    pub(crate) fn in_context(mut self, action: &str) -> Self {
        self.message = printable(&format!("{action}: {}", self.message));
        self
    }

    pub(crate) fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the error number of the guest's kernel.
    pub(crate) fn with_errno(mut self, errno: Option<i32>) -> Self {
        self.errno = errno;
        self
    }

    /// Returns the kind of an I/O error in the guest, if this is one.
    #[must_use]
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        let errno = self.errno?;
        Some(std::io::Error::from_raw_os_error(errno).kind())
    }

    /// Marks an error that occurred after the code was sent to the guest.
    pub(crate) fn after_start(mut self) -> Self {
        self.started = true;
        self
    }

    /// Marks an error that occurred before the code was sent to the guest, whatever else was.
    pub(crate) fn before_start(mut self) -> Self {
        self.started = false;
        self
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns whether the same request can be made again.
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

/// The end of the message of EMFILE: this process may have no more descriptors. Errors of lower layers arrive as texts.
const DESCRIPTORS_EXHAUSTED: &str = "(os error 24)";

/// Descriptors that are enough for a command with one VM.
const SUGGESTED_DESCRIPTORS: u64 = 1024;

/// Returns the limit of descriptors and how to raise it.
pub(crate) fn describe_descriptor_limit() -> String {
    let limit = getrlimit(Resource::Nofile);
    let number = |value: Option<u64>| value.map_or("unlimited".to_owned(), |n| n.to_string());
    let (soft, hard) = (number(limit.current), number(limit.maximum));

    let fix = if limit
        .maximum
        .is_none_or(|hard| hard >= SUGGESTED_DESCRIPTORS)
    {
        format!("run `ulimit -n {SUGGESTED_DESCRIPTORS}` before")
    } else {
        format!(
            "raise the hard limit to {SUGGESTED_DESCRIPTORS} or more: `nofile` in /etc/security/limits.conf, \
             `LimitNOFILE=` of a unit, `--ulimit nofile=` of a container"
        )
    };
    format!("this process may have {soft} (hard limit {hard}): {fix}")
}

/// Maximum length of a message, in characters: parts of it may come from a guest.
const MESSAGE_CHARS: usize = 4096;

/// Makes a text safe to print on a terminal, even if a guest wrote it.
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
    fn text_of_a_guest_cannot_control_or_flood_a_terminal() {
        let error = Error::new(
            ErrorKind::Lost,
            format!("\u{1b}]0;title\u{7}{}", "x".repeat(10_000)),
        );
        assert!(error.to_string().starts_with("\u{fffd}]0;title\u{fffd}x"));
        assert_eq!(error.to_string().chars().count(), MESSAGE_CHARS);
    }

    #[test]
    fn a_shortage_of_descriptors_names_the_limit_and_the_fix() {
        let limit = getrlimit(Resource::Nofile).current.unwrap();
        let error = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let error = Error::new(ErrorKind::Host, format!("cannot create sockets: {error}"));
        let text = error.to_string();
        for part in ["Too many open files", &limit.to_string(), "ulimit -n"] {
            assert!(text.contains(part), "{text}");
        }

        let other = Error::new(ErrorKind::Host, "cannot create sockets: (os error 2)");
        assert!(!other.to_string().contains("ulimit"));
    }

    #[test]
    fn retry_depends_on_whether_code_may_have_run() {
        assert_eq!(Error::new(ErrorKind::Lost, "x").retry(), Retry::Safe);
        assert_eq!(
            Error::new(ErrorKind::Lost, "x").after_start().retry(),
            Retry::Unknown
        );

        let upload = Error::new(ErrorKind::Lost, "x").after_start();
        assert_eq!(upload.before_start().retry(), Retry::Safe);

        assert_eq!(
            Error::new(ErrorKind::Invalid, "x").after_start().retry(),
            Retry::Never
        );
    }
}

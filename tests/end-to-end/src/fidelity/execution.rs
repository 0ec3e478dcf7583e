use std::time::Duration;

/// One of a program's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a program did in one mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Execution {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Both in the order in which they were written; none if that is unknown.
    pub merged: Option<Vec<u8>>,
    /// Its exit code; 128 + signal if a signal ended it; none if its VM was lost.
    pub exit_code: Option<i32>,
    /// Why it has no result, if it has none: an error of the engine, or a timeout.
    pub failure: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Execution {
    /// Returns an execution that failed for this reason.
    #[must_use]
    pub fn failed(reason: impl ToString) -> Self {
        Self {
            failure: Some(reason.to_string()),
            ..Self::default()
        }
    }

    /// Adds output that arrived after all that came before.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let own = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        own.extend_from_slice(bytes);
        self.merged.get_or_insert_default().extend_from_slice(bytes);
    }

    /// Returns the same with its outputs changed.
    pub(super) fn map(&self, change: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        Self {
            stdout: change(&self.stdout),
            stderr: change(&self.stderr),
            merged: self.merged.as_deref().map(change),
            ..self.clone()
        }
    }

    /// Whether it wrote to both streams.
    pub(super) fn wrote_both(&self) -> bool {
        !self.stdout.is_empty() && !self.stderr.is_empty()
    }
}

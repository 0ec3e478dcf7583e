//! A program's output: written to the standard streams as it arrives, or captured for `--json`.

use std::io;

use fumehood_engine::report::{CapturedOutput, DisplayedValues};
use fumehood_engine::{Event, MimeBundle};
use tokio::io::{AsyncWrite, AsyncWriteExt, Stderr, Stdout};

/// The destination of a program's output.
pub(crate) enum Output {
    /// The standard streams of this process, as the output arrives.
    Streams(OutputStreams),
    /// Memory, up to a limit, for one JSON object at the end.
    Captured(Box<CapturedRun>),
}

pub(crate) struct OutputStreams {
    stdout: Stdout,
    stderr: Stderr,
    /// Whether the last byte written was not a line end.
    is_within_line: bool,
}

/// The captured output of one run.
#[derive(Debug, Default)]
pub(crate) struct CapturedRun {
    pub(crate) stdout: CapturedOutput,
    pub(crate) stderr: CapturedOutput,
    pub(crate) results: DisplayedValues,
}

impl Output {
    /// Creates an output that writes to the standard streams.
    pub(crate) fn to_streams() -> Self {
        Self::Streams(OutputStreams {
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
            is_within_line: false,
        })
    }

    /// Creates an output that captures everything.
    pub(crate) fn to_memory() -> Self {
        Self::Captured(Box::default())
    }

    /// Writes or captures the output in `event`; other events are ignored.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) async fn write_event(&mut self, event: &Event) -> io::Result<()> {
        match self {
            Self::Streams(streams) => streams.write_event(event).await,
            Self::Captured(captured) => {
                captured.add_event(event);
                Ok(())
            }
        }
    }

    /// Prints lines of fumehood itself among the output.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) async fn print(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Streams(streams) => {
                streams.is_within_line = !ends_line(lines);
                write(&mut streams.stdout, lines).await
            }
            Self::Captured(_) => Ok(()),
        }
    }

    /// The user has ended the line by typing Enter.
    pub(crate) fn line_was_ended(&mut self) {
        if let Self::Streams(streams) = self {
            streams.is_within_line = false;
        }
    }

    /// Ends a line that the program left open.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) async fn end_line(&mut self) -> io::Result<()> {
        match self {
            Self::Streams(streams) if streams.is_within_line => {
                streams.is_within_line = false;
                write(&mut streams.stdout, b"\n").await
            }
            _ => Ok(()),
        }
    }
}

impl OutputStreams {
    async fn write_event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Stdout(bytes) => {
                self.is_within_line = !ends_line(bytes);
                write(&mut self.stdout, bytes).await
            }
            Event::Stderr(bytes) => {
                self.is_within_line = !ends_line(bytes);
                write(&mut self.stderr, bytes).await
            }
            // A value is a whole line, whatever the program left open.
            Event::Result(value) => {
                self.is_within_line = false;
                write(&mut self.stdout, value_line(value).as_bytes()).await
            }
            _ => Ok(()),
        }
    }
}

impl CapturedRun {
    fn add_event(&mut self, event: &Event) {
        match event {
            Event::Stdout(bytes) => self.stdout.add(bytes),
            Event::Stderr(bytes) => self.stderr.add(bytes),
            Event::Result(value) => self.results.add(value),
            _ => {}
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Returns whether `bytes` end a line. Empty output counts as a line end.
fn ends_line(bytes: &[u8]) -> bool {
    bytes.last().is_none_or(|last| *last == b'\n')
}

/// Returns a value as a line of text: its plain text, or the names of its MIME types if it has none.
fn value_line(value: &MimeBundle) -> String {
    match value.text() {
        Some(text) => format!("{text}\n"),
        None => {
            let types: Vec<_> = value.types().collect();
            format!("[{}]\n", types.join(", "))
        }
    }
}

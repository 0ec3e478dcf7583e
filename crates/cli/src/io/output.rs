use std::io;

use fumehood_engine::{Event, MimeBundle};
use tokio::io::{AsyncWrite, AsyncWriteExt, Stderr, Stdout};

use fumehood_engine::report::{CapturedOutput, DisplayedValues};

/// Where a program's output goes.
pub(crate) enum Output {
    /// To this command's own, as it comes.
    Streams(Streams),
    /// Kept, up to a limit, for one object at the end.
    Kept(Box<Kept>),
}

pub(crate) struct Streams {
    stdout: Stdout,
    stderr: Stderr,
    /// The last byte was no end of a line.
    is_within_line: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) stdout: CapturedOutput,
    pub(crate) stderr: CapturedOutput,
    pub(crate) results: DisplayedValues,
}

impl Output {
    pub(crate) fn streams() -> Self {
        Self::Streams(Streams {
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
            is_within_line: false,
        })
    }

    /// # Errors
    /// It cannot be written.
    pub(crate) async fn take(&mut self, event: &Event) -> io::Result<()> {
        match self {
            Self::Streams(streams) => streams.take(event).await,
            Self::Kept(kept) => {
                kept.take(event);
                Ok(())
            }
        }
    }

    /// Ends a line that was begun and not ended.
    ///
    /// # Errors
    /// It cannot be written.
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

impl Streams {
    async fn take(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Stdout(bytes) | Event::Stderr(bytes) => {
                self.is_within_line = bytes.last().is_some_and(|last| *last != b'\n');
                match event {
                    Event::Stdout(_) => write(&mut self.stdout, bytes).await,
                    _ => write(&mut self.stderr, bytes).await,
                }
            }
            Event::Result(value) => {
                self.is_within_line = false;
                write(&mut self.stdout, line(value).as_bytes()).await
            }
            _ => Ok(()),
        }
    }
}

impl Kept {
    fn take(&mut self, event: &Event) {
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

/// A value as a line of text: its own, or the names of the forms that it has.
fn line(value: &MimeBundle) -> String {
    match value.text() {
        Some(text) => format!("{text}\n"),
        None => {
            let kinds: Vec<_> = value.types().collect();
            format!("[{}]\n", kinds.join(", "))
        }
    }
}

use std::io;

use fumehood_engine::{Event, MimeBundle};
use tokio::io::{AsyncWrite, AsyncWriteExt, Stderr, Stdout};

use crate::json::{Captured, Shown};

/// Where a program's output goes.
pub(crate) enum Output {
    /// To this command's own, as it comes.
    Streams(Stdout, Stderr),
    /// Kept, up to a limit, for one object at the end.
    Kept(Box<Kept>),
}

#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
    pub(crate) results: Shown,
}

impl Output {
    pub(crate) fn streams() -> Self {
        Self::Streams(tokio::io::stdout(), tokio::io::stderr())
    }

    /// # Errors
    /// It cannot be written.
    pub(crate) async fn take(&mut self, event: &Event) -> io::Result<()> {
        match (self, event) {
            (Self::Streams(stdout, _), Event::Stdout(bytes)) => write(stdout, bytes).await,
            (Self::Streams(_, stderr), Event::Stderr(bytes)) => write(stderr, bytes).await,
            (Self::Streams(stdout, _), Event::Result(value)) => {
                write(stdout, line(value).as_bytes()).await
            }
            (Self::Kept(kept), Event::Stdout(bytes)) => {
                kept.stdout.add(bytes);
                Ok(())
            }
            (Self::Kept(kept), Event::Stderr(bytes)) => {
                kept.stderr.add(bytes);
                Ok(())
            }
            (Self::Kept(kept), Event::Result(value)) => {
                kept.results.add(value);
                Ok(())
            }
            _ => Ok(()),
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

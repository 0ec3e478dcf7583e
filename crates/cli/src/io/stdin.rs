//! Standard input of this process, forwarded to a program in a VM.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;
use std::time::Duration;

use fumehood_engine::Input;
use tokio::io::{AsyncReadExt, Stdin, stdin};
use tokio::task::JoinHandle;

use super::messages::eprint_message;

/// The size of one read of standard input, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// The pause between two end-of-transmission characters for a terminal.
const END_OF_TRANSMISSION_INTERVAL: Duration = Duration::from_millis(250);

/// Ctrl-D, which ends a terminal's input.
const END_OF_TRANSMISSION: u8 = 4;

/// Returns whether standard input is a pipe, a file or a socket. Terminals and devices, such as `/dev/null`, are none.
pub(crate) fn is_stdin_redirected() -> bool {
    let kind = open_stdin().and_then(|file| file.metadata());
    kind.is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_file() || kind.is_fifo() || kind.is_socket()
    })
}

/// Returns a duplicate of standard input. Both share their position.
fn open_stdin() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Standard input, as it is read.
enum Source {
    /// Reading takes the bytes away from other readers.
    Stream(Stdin),
    /// A file is read without moving its position, since only the program knows how much of it it needs. The loop
    /// `while read line; do fumehood run …; done < file` works as with a local interpreter.
    File { file: Arc<File>, position: u64 },
}

impl Source {
    fn open() -> Self {
        Self::open_file().unwrap_or_else(|| Self::Stream(stdin()))
    }

    /// Returns standard input if it is a file.
    fn open_file() -> Option<Self> {
        let mut file = open_stdin().ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }

        let position = io::Seek::stream_position(&mut file).ok()?;
        let file = Arc::new(file);
        Some(Self::File { file, position })
    }

    /// Reads up to [`READ_BYTES`]. Returns nothing at the end, or after an error, which is reported.
    async fn read(&mut self) -> Vec<u8> {
        let result = match self {
            Self::Stream(stdin) => {
                let mut buffer = vec![0; READ_BYTES];
                let read = stdin.read(&mut buffer).await;
                read.map(|len| {
                    buffer.truncate(len);
                    buffer
                })
            }
            Self::File { file, position } => {
                let (file, offset) = (file.clone(), *position);
                let read = tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; READ_BYTES];
                    let len = file.read_at(&mut buffer, offset)?;
                    buffer.truncate(len);
                    Ok(buffer)
                });
                let read = read.await.unwrap_or_else(|error| Err(error.into()));
                read.inspect(|bytes| *position += bytes.len() as u64)
            }
        };

        result.unwrap_or_else(|error| {
            eprint_message(&format!("cannot read standard input: {error}"));
            Vec::new()
        })
    }
}

/// Source and destination of the input.
enum Route {
    /// Any source to a pipe.
    ToPipe,
    /// A terminal to a terminal. The escape sequence is recognized.
    TerminalToTerminal(EscapeFilter),
    /// A pipe or a file to a terminal.
    PipeToTerminal,
}

/// The way in which forwarding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ForwardEnd {
    /// All input was forwarded, or the program has ended.
    Finished,
    /// The user typed the escape sequence.
    Escaped,
}

/// The input of a program, in this process or on a server.
pub(crate) trait InputSink: Send + 'static {
    /// Writes bytes. Returns false once the program takes no more.
    fn write(&mut self, bytes: Vec<u8>) -> impl Future<Output = bool> + Send;

    /// Ends the input.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

impl InputSink for Input {
    async fn write(&mut self, bytes: Vec<u8>) -> bool {
        Self::write(self, bytes).await.is_ok()
    }

    async fn close(&mut self) {
        Self::close(self).await;
    }
}

/// Forwards standard input as fast as the program reads it. Dropping it stops forwarding.
pub(crate) struct StdinForwarder {
    task: JoinHandle<ForwardEnd>,
    is_finished: bool,
}

impl StdinForwarder {
    /// Forwards to the program's pipe.
    pub(crate) fn to_pipe(input: impl InputSink) -> Self {
        Self::spawn(forward(input, Route::ToPipe))
    }

    /// Forwards to the program's terminal. `is_terminal`: standard input is a terminal, too.
    pub(crate) fn to_terminal(input: impl InputSink, is_terminal: bool) -> Self {
        let route = if is_terminal {
            Route::TerminalToTerminal(EscapeFilter::default())
        } else {
            Route::PipeToTerminal
        };
        Self::spawn(forward(input, route))
    }

    fn spawn(forwarding: impl Future<Output = ForwardEnd> + Send + 'static) -> Self {
        Self {
            task: tokio::spawn(forwarding),
            is_finished: false,
        }
    }

    /// Waits until the user types the escape sequence; forever, if the user does not.
    pub(crate) async fn wait_for_escape(&mut self) {
        if !self.is_finished {
            let end = (&mut self.task).await;
            self.is_finished = true;
            if let Ok(ForwardEnd::Escaped) = end {
                return;
            }
        }

        std::future::pending().await
    }
}

impl Drop for StdinForwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut input: impl InputSink, mut route: Route) -> ForwardEnd {
    let mut source = match route {
        Route::ToPipe => Source::open(),
        Route::TerminalToTerminal(_) | Route::PipeToTerminal => Source::Stream(stdin()),
    };

    loop {
        let read = source.read().await;
        if read.is_empty() {
            break;
        }

        let bytes = match &mut route {
            Route::TerminalToTerminal(filter) => match filter.filter(&read) {
                Some(bytes) => bytes,
                None => return ForwardEnd::Escaped,
            },
            Route::ToPipe | Route::PipeToTerminal => read,
        };
        // The filter may hold back everything.
        if !bytes.is_empty() && !input.write(bytes).await {
            return ForwardEnd::Finished;
        }
    }

    match route {
        Route::ToPipe => input.close().await,
        Route::TerminalToTerminal(_) | Route::PipeToTerminal => {
            end_terminal_input(&mut input).await
        }
    }
    ForwardEnd::Finished
}

/// Sends Ctrl-D again and again until the program ends. A terminal has no lasting end: each further reader needs another
/// Ctrl-D. A single one is lost on a shell that has not set up its line editor yet, and in the middle of a line it only
/// submits that line.
async fn end_terminal_input(input: &mut impl InputSink) {
    while input.write(vec![END_OF_TRANSMISSION]).await {
        tokio::time::sleep(END_OF_TRANSMISSION_INTERVAL).await;
    }
}

/// Recognizes `~.` at the start of a line, the escape sequence of `ssh`. A `~` is held back until the next byte is known;
/// `~~` forwards one `~`.
#[derive(Debug)]
struct EscapeFilter {
    position: LinePosition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinePosition {
    Start,
    AfterTilde,
    Middle,
}

impl Default for EscapeFilter {
    fn default() -> Self {
        Self {
            position: LinePosition::Start,
        }
    }
}

impl EscapeFilter {
    /// Returns the bytes to forward, or `None` after the escape sequence.
    fn filter(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut forwarded = Vec::with_capacity(bytes.len() + 1);

        for &byte in bytes {
            // Advance the position first: the escape sequence itself is not forwarded.
            let previous = self.position;
            self.position = match (previous, byte) {
                (LinePosition::AfterTilde, b'.') => return None,
                (LinePosition::Start, b'~') => LinePosition::AfterTilde,
                (_, b'\r' | b'\n') => LinePosition::Start,
                _ => LinePosition::Middle,
            };

            match (previous, byte) {
                (LinePosition::Start, b'~') => {}
                (LinePosition::AfterTilde, b'~') => forwarded.push(b'~'),
                (LinePosition::AfterTilde, _) => forwarded.extend([b'~', byte]),
                _ => forwarded.push(byte),
            }
        }

        Some(forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tilde_and_a_full_stop_at_a_line_start_escape() {
        let typed = |bytes: &[u8]| {
            let mut filter = EscapeFilter::default();
            let mut all = Vec::new();
            for byte in bytes.chunks(1) {
                all.extend(filter.filter(byte)?);
            }
            Some(all)
        };

        assert_eq!(typed(b"~."), None);
        assert_eq!(typed(b"ls\r~."), None);
        assert_eq!(typed(b"ls ~.\r").unwrap(), b"ls ~.\r");
        assert_eq!(typed(b"~/a\r~~.").unwrap(), b"~/a\r~.");
    }
}

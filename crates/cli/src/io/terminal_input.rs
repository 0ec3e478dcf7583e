//! What is typed at the terminal while a program runs, for programs that share it with a prompt.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fumehood_engine::Input;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The size of one read of the terminal, in bytes.
const READ_BYTES: usize = 4096;

/// Number of reads that may wait for the program.
const WAITING_READS: usize = 64;

/// The interval at which the terminal is polled while the program does not read.
const FULL_INTERVAL: Duration = Duration::from_millis(20);

/// The time that a program runs before it gets typed text. Text that is typed while a short program still runs is meant for
/// the prompt, and users do not answer a program's question faster.
const START_DELAY: Duration = Duration::from_millis(500);

/// Forwards the lines that are typed to a program. Dropping it stops that: no line is taken from the terminal after it,
/// unlike by a read of standard input that cannot be cancelled.
pub(crate) struct TerminalInput {
    forwarding: JoinHandle<()>,
    has_line: Arc<AtomicBool>,
    /// Closing it stops the thread.
    stop: Option<PipeWriter>,
    reading: Option<thread::JoinHandle<()>>,
}

impl TerminalInput {
    /// Starts to forward.
    ///
    /// # Errors
    /// The thread that reads the terminal cannot be started.
    pub(crate) fn forward(mut input: Input) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let (sender, mut lines) = mpsc::channel::<Vec<u8>>(WAITING_READS);
        let has_line = Arc::new(AtomicBool::new(false));

        let ended = has_line.clone();
        let reading = thread::Builder::new()
            .name("terminal".into())
            .spawn(move || read_lines(&stopped, &sender, &ended))?;

        let forwarding = tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                if line.is_empty() {
                    return input.close().await;
                }
                if input.write(line).await.is_err() {
                    return;
                }
            }
        });

        Ok(Self {
            forwarding,
            has_line,
            stop: Some(stop),
            reading: Some(reading),
        })
    }

    /// Returns whether a line was typed since the last call.
    pub(crate) fn take_line(&self) -> bool {
        self.has_line.swap(false, Ordering::Relaxed)
    }
}

impl Drop for TerminalInput {
    fn drop(&mut self) {
        self.forwarding.abort();
        self.stop = None;

        // It ends at once: it reads only what is there.
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
    }
}

/// Reads lines until it is stopped, the program has ended or the user types Ctrl-D, which is passed on as an empty line.
fn read_lines(stopped: &PipeReader, lines: &mpsc::Sender<Vec<u8>>, has_line: &AtomicBool) {
    let mut buffer = [0; READ_BYTES];
    if wait(stopped, Terminal::Ignored(START_DELAY)) == Wait::Stopped {
        return;
    }

    loop {
        let terminal = match lines.capacity() {
            0 => Terminal::Ignored(FULL_INTERVAL),
            _ => Terminal::Polled,
        };
        match wait(stopped, terminal) {
            Wait::Stopped => return,
            Wait::Nothing => continue,
            Wait::Typed => {}
        }

        let line = match rustix::io::read(stdin(), &mut buffer) {
            Ok(len) => buffer[..len].to_vec(),
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(_) => return,
        };
        has_line.store(line.ends_with(b"\n"), Ordering::Relaxed);

        let is_end = line.is_empty();
        if lines.try_send(line).is_err() || is_end {
            return;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminal {
    Polled,
    /// For this time.
    Ignored(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Stopped,
    /// A read of the terminal returns at once.
    Typed,
    Nothing,
}

/// Waits until the terminal can be read, the reader is stopped, or the time is over.
fn wait(stopped: &PipeReader, terminal: Terminal) -> Wait {
    let input = stdin();
    let mut polled = vec![PollFd::new(stopped, PollFlags::IN)];
    let timeout = match terminal {
        Terminal::Polled => {
            polled.push(PollFd::new(&input, PollFlags::IN));
            None
        }
        Terminal::Ignored(time) => Timespec::try_from(time).ok(),
    };

    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) if !polled[0].revents().is_empty() => Wait::Stopped,
        Ok(0) | Err(Errno::INTR) => Wait::Nothing,
        Ok(_) => Wait::Typed,
        Err(_) => Wait::Stopped,
    }
}

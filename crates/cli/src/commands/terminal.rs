//! A program on a terminal in a VM, connected with the terminal of this command.

use std::pin::pin;

use anyhow::Context;
use rustix::process::Signal as SignalNumber;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::io::{Interrupts, StdinForwarder, Terminal, terminal_size};

/// The signals that matter to a terminal. Create it before the program's terminal gets its size, so that no change is missed.
pub(super) struct TerminalSession {
    resized: Signal,
    quit: Signal,
    resumed: Signal,
}

impl TerminalSession {
    /// Installs the signal handlers.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            quit: signal(SignalKind::quit())?,
            resumed: signal(SignalKind::from_raw(SignalNumber::CONT.as_raw()))?,
        })
    }

    /// Connects the terminals until `output` has written everything that the program writes, and returns its result.
    /// Returns `None` if the user leaves the program, or a signal ends this command. `forward` starts to forward standard
    /// input, which is a terminal or not; `resize` passes on a new size.
    ///
    /// # Errors
    /// The terminal cannot be switched to raw mode, or `output` fails.
    pub(super) async fn run<T>(
        mut self,
        forward: impl FnOnce(bool) -> StdinForwarder,
        resize: impl Fn(u16, u16),
        output: impl Future<Output = anyhow::Result<T>>,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<Option<T>> {
        let terminal = Terminal::open().context("cannot read the terminal's modes")?;
        if let Some(terminal) = &terminal {
            terminal
                .make_raw()
                .context("cannot switch the terminal to raw mode")?;
        }

        let mut stdin = forward(terminal.is_some());
        let mut output = pin!(output);
        loop {
            tokio::select! {
                result = &mut output => return result.map(Some),
                _ = self.resized.recv() => {
                    let (rows, cols) = terminal_size();
                    resize(rows, cols);
                }
                // The shell that stopped this command has changed the terminal's modes.
                _ = self.resumed.recv() => if let Some(terminal) = &terminal {
                    terminal.make_raw()?;
                },
                () = stdin.wait_for_escape() => return Ok(None),
                _ = interrupts.next() => return Ok(None),
                _ = self.quit.recv() => return Ok(None),
            }
        }
    }
}

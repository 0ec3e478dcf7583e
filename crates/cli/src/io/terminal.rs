//! The terminal on standard input and output.

use std::io;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Rows and columns if no terminal reports its size: those of the classic terminals.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// The terminal on standard input. Dropping it restores the modes that it had.
pub(crate) struct Terminal {
    original_modes: Termios,
}

impl Terminal {
    /// Opens the terminal on standard input. Returns `None` if standard input is not a terminal.
    ///
    /// # Errors
    /// The terminal's modes cannot be read.
    pub(crate) fn open() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }

        let original_modes = tcgetattr(stdin())?;
        Ok(Some(Self { original_modes }))
    }

    /// Switches to raw mode: each key is passed on unchanged, without echo, line editing or signals.
    ///
    /// # Errors
    /// The modes cannot be set.
    pub(crate) fn make_raw(&self) -> io::Result<()> {
        let mut raw = self.original_modes.clone();
        raw.make_raw();
        Ok(tcsetattr(stdin(), OptionalActions::Now, &raw)?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that has hung up has no modes to restore.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.original_modes);
    }
}

/// Returns whether standard input and output are both terminals.
pub(crate) fn is_interactive() -> bool {
    isatty(stdin()) && isatty(stdout())
}

/// Returns whether standard output is a terminal.
pub(crate) fn is_stdout_terminal() -> bool {
    isatty(stdout())
}

/// Returns whether standard error is a terminal.
pub(crate) fn is_stderr_terminal() -> bool {
    isatty(rustix::stdio::stderr())
}

/// Returns rows and columns of the terminal on standard output, or else of the one on standard input.
pub(crate) fn terminal_size() -> (u16, u16) {
    let sizes = [tcgetwinsize(stdout()), tcgetwinsize(stdin())];

    sizes
        .into_iter()
        .flatten()
        .find(|size| size.ws_row > 0 && size.ws_col > 0)
        .map_or(DEFAULT_SIZE, |size| (size.ws_row, size.ws_col))
}

/// Asks the user a question on the terminal. Everything but `y` and `yes` means no.
///
/// # Errors
/// Standard input or standard error is not a terminal.
pub(crate) async fn confirm(question: &str) -> anyhow::Result<bool> {
    if !isatty(stdin()) || !is_stderr_terminal() {
        anyhow::bail!("{question} There is no terminal to ask; review the patch, then use --yes");
    }

    let prompt = format!("fumehood: {question} [y/N] ");
    let answer = tokio::task::spawn_blocking(move || {
        io::Write::write_all(&mut io::stderr(), prompt.as_bytes())?;
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        Ok::<_, io::Error>(line)
    });
    let answer = answer.await??.trim().to_lowercase();
    Ok(matches!(answer.as_str(), "y" | "yes"))
}

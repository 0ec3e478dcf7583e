use std::io;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Lines and columns where there is no terminal to ask, as the first ones had them.
const SIZE: (u16, u16) = (24, 80);

/// The terminal on standard input, as it was found: so it is again when this is dropped.
pub(crate) struct Terminal {
    found: Termios,
}

impl Terminal {
    /// `None`: standard input is no terminal.
    ///
    /// # Errors
    /// Its modes cannot be read.
    pub(crate) fn find() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let found = tcgetattr(stdin())?;
        Ok(Some(Self { found }))
    }

    /// Passes each key on as it is: nothing is echoed, kept back or made a signal.
    ///
    /// # Errors
    /// It cannot be set so.
    pub(crate) fn make_raw(&self) -> io::Result<()> {
        let mut raw = self.found.clone();
        raw.make_raw();
        Ok(tcsetattr(stdin(), OptionalActions::Now, &raw)?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has hung up has no modes any more.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.found);
    }
}

/// Whether a person reads and writes here.
pub(crate) fn is_interactive() -> bool {
    isatty(stdin()) && isatty(stdout())
}

/// Lines and columns of the terminal that this command writes to, or else of the one that it reads from.
pub(crate) fn size() -> (u16, u16) {
    let sizes = [tcgetwinsize(stdout()), tcgetwinsize(stdin())];
    let known = sizes
        .into_iter()
        .flatten()
        .find(|s| s.ws_row > 0 && s.ws_col > 0);
    known.map_or(SIZE, |size| (size.ws_row, size.ws_col))
}

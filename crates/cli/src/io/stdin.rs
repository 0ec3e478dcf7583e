use std::time::Duration;

use fumehood_engine::Input;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use super::messages::complain;

/// One read of standard input, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// How often a terminal is told that nothing follows, until its program has ended.
const END_AGAIN: Duration = Duration::from_millis(250);

/// What says to a terminal's reader that nothing follows: Ctrl-D.
const END_OF_TRANSMISSION: u8 = 4;

/// What input comes from and goes to.
enum Kind {
    /// From anywhere to a pipe.
    Pipe,
    /// From a person to a terminal: a way out is looked for in it.
    Typed(Escape),
    /// From a pipe or a file to a terminal.
    Fed,
}

/// How input came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fed {
    /// All of it was passed on, or the program has ended.
    All,
    /// The user typed what gives the program up.
    Escaped,
}

/// Passes this command's standard input on, as fast as the program reads it. Dropping it ends that.
pub(crate) struct Feeding {
    task: JoinHandle<Fed>,
    is_over: bool,
}

impl Feeding {
    /// To a program's pipe.
    pub(crate) fn begin(input: Input) -> Self {
        Self::spawn(input, Kind::Pipe)
    }

    /// To a program's terminal. `is_typed`: it comes from one, too.
    pub(crate) fn terminal(input: Input, is_typed: bool) -> Self {
        let kind = match is_typed {
            true => Kind::Typed(Escape::default()),
            false => Kind::Fed,
        };
        Self::spawn(input, kind)
    }

    fn spawn(input: Input, kind: Kind) -> Self {
        Self {
            task: tokio::spawn(feed(input, kind)),
            is_over: false,
        }
    }

    /// Waits until the program has been given up; for ever, where it is not.
    pub(crate) async fn escaped(&mut self) {
        if !self.is_over {
            let fed = (&mut self.task).await;
            self.is_over = true;
            if let Ok(Fed::Escaped) = fed {
                return;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn feed(mut input: Input, mut kind: Kind) -> Fed {
    let mut stdin = tokio::io::stdin();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let len = match stdin.read(&mut piece).await {
            Ok(len) => len,
            Err(error) => {
                complain(&format!("standard input cannot be read: {error}"));
                0
            }
        };
        if len == 0 {
            break;
        }
        let bytes = match &mut kind {
            Kind::Typed(escape) => match escape.pass(&piece[..len]) {
                Some(bytes) => bytes,
                None => return Fed::Escaped,
            },
            Kind::Pipe | Kind::Fed => piece[..len].to_vec(),
        };
        if !bytes.is_empty() && input.write(bytes).await.is_err() {
            return Fed::All;
        }
    }
    match kind {
        Kind::Pipe => input.close().await,
        Kind::Typed(_) | Kind::Fed => end_terminal(&mut input).await,
    }
    Fed::All
}

/// A terminal has no end: whoever reads from it next, and next again, is to find one. A single Ctrl-D is lost on a
/// shell that has not set up its line editor yet, and in the middle of a line it only sends that line.
async fn end_terminal(input: &mut Input) {
    while input.write([END_OF_TRANSMISSION].to_vec()).await.is_ok() {
        tokio::time::sleep(END_AGAIN).await;
    }
}

/// Looks for a `~.` at the beginning of a line, as terminals of remote machines have it. A `~` is held until it is
/// known what follows; `~~` passes one on.
#[derive(Debug)]
struct Escape {
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Beginning,
    Tilde,
    Within,
}

impl Default for Escape {
    fn default() -> Self {
        Self { at: At::Beginning }
    }
}

impl Escape {
    /// What to pass on; `None`: the way out was asked for.
    fn pass(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            let was = self.at;
            self.at = match (was, byte) {
                (At::Tilde, b'.') => return None,
                (At::Beginning, b'~') => At::Tilde,
                (_, b'\r' | b'\n') => At::Beginning,
                _ => At::Within,
            };
            match (was, byte) {
                (At::Beginning, b'~') => {}
                (At::Tilde, b'~') => out.push(b'~'),
                (At::Tilde, _) => out.extend([b'~', byte]),
                _ => out.push(byte),
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tilde_and_a_full_stop_at_a_beginning_lead_out() {
        let typed = |bytes: &[u8]| {
            let mut escape = Escape::default();
            let mut all = Vec::new();
            for byte in bytes.chunks(1) {
                all.extend(escape.pass(byte)?);
            }
            Some(all)
        };
        assert_eq!(typed(b"~."), None);
        assert_eq!(typed(b"ls\r~."), None);
        assert_eq!(typed(b"ls ~.\r").unwrap(), b"ls ~.\r");
        assert_eq!(typed(b"~/a\r~~.").unwrap(), b"~/a\r~.");
    }
}

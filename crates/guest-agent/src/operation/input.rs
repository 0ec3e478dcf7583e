use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fumehood_protocol::{ErrorType, Limits, WireError};
use rustix::io::Errno;
use rustix::termios::Winsize;

/// Queues a client's input for a program. It never holds more than the client has credit for.
#[derive(Debug)]
pub(crate) struct Input {
    /// `None`: closed, because the input has ended or its reader is gone.
    pipe: Option<OwnedFd>,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that were written.
    sent: usize,
    /// Bytes that the client may still send.
    credit_left: u64,
    /// Bytes that were written and for which the client got no credit yet.
    uncredited: u64,
    /// Bytes received so far.
    pub(crate) total: u64,
    /// The client has sent the end of the input.
    is_ended: bool,
    /// The pipe is a terminal, where the end of input is a character.
    is_terminal: bool,
    /// The program was not executed yet. A terminal without a foreground process would lose a Ctrl-C.
    is_held: bool,
}

/// The character that ends the input of a terminal: Ctrl-D.
const END_OF_TRANSMISSION: &[u8] = &[4];

impl Input {
    /// Creates the queue for this non-blocking writing end.
    pub(crate) fn new(pipe: OwnedFd, is_terminal: bool, limits: &Limits) -> Self {
        Self {
            pipe: Some(pipe),
            queue: VecDeque::new(),
            sent: 0,
            credit_left: limits.input_bytes,
            uncredited: 0,
            total: 0,
            is_ended: false,
            is_terminal,
            is_held: is_terminal,
        }
    }

    /// Accepts bytes from the client.
    ///
    /// # Errors
    /// `protocol_error` if they exceed the client's credit.
    pub(crate) fn accept(&mut self, bytes: Vec<u8>, eof: bool) -> Result<(), WireError> {
        let len = bytes.len() as u64;
        self.credit_left = self.credit_left.checked_sub(len).ok_or_else(|| {
            let message = format!(
                "{len} bytes of input exceed the credit of {} bytes; wait for `credit`",
                self.credit_left
            );
            WireError::new(ErrorType::ProtocolError, message)
        })?;
        self.total += len;
        if self.is_ended || self.pipe.is_none() {
            // There is no reader. The client learns that from the end of the program.
            self.uncredited += len;
            return Ok(());
        }

        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }

        self.is_ended = eof;
        if eof && self.is_terminal {
            self.queue.push_back(END_OF_TRANSMISSION.to_vec());
        }

        self.write_pending();

        Ok(())
    }

    /// Starts to write, because the program was executed.
    pub(crate) fn release(&mut self) {
        self.is_held = false;
        self.write_pending();
    }

    /// Writes as much as the pipe accepts.
    pub(crate) fn write_pending(&mut self) {
        if self.is_held {
            return;
        }

        while let (Some(pipe), Some(piece)) = (&self.pipe, self.queue.front()) {
            match rustix::io::write(pipe, &piece[self.sent..]) {
                Ok(bytes) => {
                    self.sent += bytes;
                    self.uncredited += bytes as u64;
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    self.close();
                    return;
                }
            }

            if self.sent == piece.len() {
                self.queue.pop_front();
                self.sent = 0;
            }
        }

        // The reader sees the end of input when the pipe is closed. For a terminal it is a character.
        if self.is_ended && self.queue.is_empty() && !self.is_terminal {
            self.pipe = None;
        }
    }

    /// Resets the credit for another client, which has sent nothing yet.
    pub(crate) fn reset_credit(&mut self, limits: &Limits) {
        self.credit_left = limits.input_bytes.saturating_sub(self.queued_bytes());
        self.uncredited = 0;
    }

    /// Bytes that the client may still send.
    pub(crate) fn credit_left(&self) -> u64 {
        self.credit_left
    }

    /// Bytes that the program has not read yet.
    fn queued_bytes(&self) -> u64 {
        let left: usize = self.queue.iter().map(Vec::len).sum();
        (left - self.sent.min(left)) as u64
    }

    /// Closes the pipe, because its reader is gone, and drops the queue.
    fn close(&mut self) {
        self.uncredited += self.queued_bytes();
        self.queue.clear();
        self.sent = 0;
        self.pipe = None;
    }

    /// The pipe, while there is input to write.
    pub(crate) fn pending_fd(&self) -> Option<BorrowedFd<'_>> {
        let waits = !self.queue.is_empty() && !self.is_held;
        self.pipe.as_ref().filter(|_| waits).map(AsFd::as_fd)
    }

    /// Returns the credit to give to the client. It is given in portions of half the maximum.
    pub(crate) fn take_credit(&mut self, limits: &Limits) -> Option<u64> {
        if self.uncredited < limits.input_bytes / 2 || self.is_ended {
            return None;
        }
        let bytes = std::mem::take(&mut self.uncredited);
        self.credit_left += bytes;
        Some(bytes)
    }

    /// Sets the size of a terminal.
    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        if let Some(pipe) = self.pipe.as_ref().filter(|_| self.is_terminal) {
            // This fails if the program has closed its side.
            let _ = rustix::termios::tcsetwinsize(pipe, winsize(rows, cols));
        }
    }
}

/// Returns a terminal size in characters.
pub(crate) fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::open_writer;

    #[test]
    fn input_is_bounded_and_reading_gives_credit() {
        let limits = Limits {
            input_bytes: 100_000,
            ..Limits::default()
        };

        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (open_reader, first) = rustix::pipe::pipe_with(flags).unwrap();
        drop(first);
        let mut input = Input::new(open_writer(&open_reader).unwrap(), false, &limits);
        input.accept(vec![b'x'; 100_000], false).unwrap();
        assert!(input.accept(b"y".to_vec(), false).is_err());
        assert_eq!(input.take_credit(&limits), Some(65_536));
        assert!(input.pending_fd().is_some());
        let mut buffer = [0; 65_536];
        assert_eq!(rustix::io::read(&open_reader, &mut buffer), Ok(65_536));
        input.write_pending();
        assert_eq!(input.take_credit(&limits), None);
        input.accept(Vec::new(), true).unwrap();
        assert_eq!(rustix::io::read(&open_reader, &mut buffer), Ok(34_464));
        assert_eq!(rustix::io::read(&open_reader, &mut buffer), Ok(0));
    }

    #[test]
    fn input_without_reader_is_dropped() {
        let limits = Limits::default();
        let (open_reader, open_writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(open_writer, false, &limits);
        input.accept(vec![0; 200_000], false).unwrap();
        drop(open_reader);
        input.write_pending();
        assert_eq!(input.take_credit(&limits), Some(200_000));
        assert!(input.pending_fd().is_none());
    }
}

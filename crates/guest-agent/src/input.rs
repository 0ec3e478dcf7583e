use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use fumehood_protocol::{ErrorType, Limits, WireError};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::program::winsize;

/// What a client sends to a program's standard input, on its way there. It holds no more than the client
/// has credit for.
#[derive(Debug)]
pub(crate) struct Input {
    /// None: closed, since nothing follows or nobody reads.
    pipe: Option<OwnedFd>,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that were written.
    sent: usize,
    /// Bytes that the client may still send.
    allowed: u64,
    /// Bytes that were taken and for which no credit was given yet.
    taken: u64,
    /// Bytes that have come in all.
    pub(crate) total: u64,
    /// Nothing follows.
    ended: bool,
    /// A terminal: its end is a character.
    is_terminal: bool,
    /// The program has not been executed yet: a terminal that is nobody's would lose its Ctrl-C.
    is_held: bool,
}

/// What says to a terminal's reader that nothing follows: Ctrl-D.
const END_OF_TRANSMISSION: &[u8] = &[4];

impl Input {
    /// The way to this end of a pipe, which must not block.
    pub(crate) fn new(pipe: OwnedFd, is_terminal: bool, limits: &Limits) -> Self {
        Self {
            pipe: Some(pipe),
            queue: VecDeque::new(),
            sent: 0,
            allowed: limits.input_bytes,
            taken: 0,
            total: 0,
            ended: false,
            is_terminal,
            is_held: is_terminal,
        }
    }

    /// Takes bytes from the client.
    ///
    /// # Errors
    /// `protocol_error`: more than it had credit for.
    pub(crate) fn take(&mut self, bytes: Vec<u8>, eof: bool) -> Result<(), WireError> {
        let len = bytes.len() as u64;
        self.allowed = self.allowed.checked_sub(len).ok_or_else(|| {
            let message = format!(
                "{len} bytes of input, where {} may be sent; wait for `credit`",
                self.allowed
            );
            WireError::new(ErrorType::ProtocolError, message)
        })?;
        self.total += len;
        if self.ended || self.pipe.is_none() {
            // Nobody reads it; who writes to such a pipe learns that by its reader's end.
            self.taken += len;
            return Ok(());
        }
        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }
        self.ended = eof;
        if eof && self.is_terminal {
            self.queue.push_back(END_OF_TRANSMISSION.to_vec());
        }
        self.feed();
        Ok(())
    }

    /// The program is there.
    pub(crate) fn release(&mut self) {
        self.is_held = false;
        self.feed();
    }

    /// Writes what the program takes.
    pub(crate) fn feed(&mut self) {
        if self.is_held {
            return;
        }
        while let (Some(pipe), Some(piece)) = (&self.pipe, self.queue.front()) {
            match rustix::io::write(pipe, &piece[self.sent..]) {
                Ok(bytes) => {
                    self.sent += bytes;
                    self.taken += bytes as u64;
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
        if self.ended && self.queue.is_empty() && !self.is_terminal {
            self.pipe = None;
        }
    }

    /// Another client sends from now on, and counts from nothing.
    pub(crate) fn renew(&mut self, limits: &Limits) {
        self.allowed = limits.input_bytes.saturating_sub(self.waiting());
        self.taken = 0;
    }

    /// Bytes that the client may still send.
    pub(crate) fn allowed(&self) -> u64 {
        self.allowed
    }

    /// Bytes that wait for their reader.
    fn waiting(&self) -> u64 {
        let left: usize = self.queue.iter().map(Vec::len).sum();
        (left - self.sent.min(left)) as u64
    }

    /// Nobody reads it any more.
    pub(crate) fn close(&mut self) {
        self.taken += self.waiting();
        self.queue.clear();
        self.sent = 0;
        self.pipe = None;
    }

    /// Where input goes to, while some waits for its reader.
    pub(crate) fn unsent(&self) -> Option<BorrowedFd<'_>> {
        let waits = !self.queue.is_empty() && !self.is_held;
        self.pipe.as_ref().filter(|_| waits).map(AsFd::as_fd)
    }

    /// Credit to give: half of the whole at a time.
    pub(crate) fn credit(&mut self, limits: &Limits) -> Option<u64> {
        if self.taken < limits.input_bytes / 2 || self.ended {
            return None;
        }
        let bytes = std::mem::take(&mut self.taken);
        self.allowed += bytes;
        Some(bytes)
    }

    /// The terminal's size, where it is one.
    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        if let Some(pipe) = self.pipe.as_ref().filter(|_| self.is_terminal) {
            // The program may have closed its side.
            let _ = rustix::termios::tcsetwinsize(pipe, winsize(rows, cols));
        }
    }
}

/// Another writer's end of the pipe that `reader` reads from.
///
/// # Errors
/// What the kernel says.
pub(crate) fn writer(reader: &OwnedFd) -> std::io::Result<OwnedFd> {
    reopen(reader, OFlags::WRONLY)
}

/// Another reader's end of the pipe that `reader` reads from, which does not block.
///
/// # Errors
/// What the kernel says.
pub(crate) fn reader(reader: &OwnedFd) -> std::io::Result<OwnedFd> {
    reopen(reader, OFlags::RDONLY)
}

fn reopen(pipe: &OwnedFd, access: OFlags) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Throws away what nobody has read.
pub(crate) fn drain(reader: &OwnedFd) {
    let mut dropped = [0; 4096];
    while let Ok(1..) = rustix::io::read(reader, &mut dropped) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_bounded_and_credit_comes_as_it_is_read() {
        let limits = Limits {
            input_bytes: 100_000,
            ..Limits::default()
        };
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (reader, first) = rustix::pipe::pipe_with(flags).unwrap();
        drop(first);
        let mut input = Input::new(writer(&reader).unwrap(), false, &limits);
        input.take(vec![b'x'; 100_000], false).unwrap();
        assert!(input.take(b"y".to_vec(), false).is_err());
        assert_eq!(input.credit(&limits), Some(65_536));
        assert!(input.unsent().is_some());
        let mut buffer = [0; 65_536];
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(65_536));
        input.feed();
        assert_eq!(input.credit(&limits), None);
        input.take(Vec::new(), true).unwrap();
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(34_464));
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(0));
    }

    #[test]
    fn what_nobody_reads_is_dropped() {
        let limits = Limits::default();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(writer, false, &limits);
        input.take(vec![0; 200_000], false).unwrap();
        drop(reader);
        input.feed();
        assert_eq!(input.credit(&limits), Some(200_000));
        assert!(input.unsent().is_none());
    }
}

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{
    Chunk, Data, Limits, OpId, Output, Response, Stream, StreamSummary, Utf8Splitter,
};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::journal::Pieces;
use crate::outbox::Outbox;

/// How the bytes of one operation go over the line.
#[derive(Debug)]
pub(crate) struct Framing {
    /// The operation.
    pub(crate) op_id: Option<OpId>,
    /// What was agreed on.
    pub(crate) encoding: Encoding,
    /// The number of the next piece.
    pub(crate) seq: u64,
    /// What was said before, where the operation can be attached to.
    pub(crate) kept: Option<Pieces>,
}

/// What a piece of output is on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Version 0: text, with U+FFFD for what is none.
    Text,
    /// Version 1: text, or base64 for what is none.
    Exact,
    /// Version 1 with raw frames.
    Raw,
}

/// One output stream of a program: read, gathered, sent.
#[derive(Debug)]
pub(crate) struct OutputStream {
    stream: Stream,
    pipe: Option<OwnedFd>,
    gathered: Vec<u8>,
    /// When the first byte of what is gathered was read.
    since: Option<Instant>,
    begun: bool,
    /// The pipe was seen to hold bytes.
    readable: bool,
    splitter: Utf8Splitter,
    summary: StreamSummary,
    /// After the program's end: bytes that were in the pipe then and are still to be read.
    left: Option<u64>,
    /// It comes from a terminal, which hands on what was written after its writer may have ended.
    is_terminal: bool,
    /// Until when to wait for a terminal's last words.
    until: Option<Instant>,
    /// Until when the pipe is left alone, for its writer to fill it.
    rest: Option<Instant>,
}

/// How long a pipe is left alone that gave less than was asked for, after the first output: a program that
/// writes small pieces would else be interrupted for each of them. Its pipe takes this long to fill.
const REST: Duration = Duration::from_micros(500);

/// How long a terminal may take to hand on what was written to it.
const TERMINAL_PATIENCE: Duration = Duration::from_millis(500);

impl OutputStream {
    /// A stream that reads from this end of a pipe, which does not block; without one, it is at its end.
    pub(crate) fn new(stream: Stream, pipe: Option<OwnedFd>) -> Self {
        Self {
            stream,
            pipe,
            gathered: Vec::new(),
            since: None,
            begun: false,
            readable: false,
            splitter: Utf8Splitter::default(),
            summary: StreamSummary::default(),
            left: None,
            is_terminal: false,
            until: None,
            rest: None,
        }
    }

    /// The same for a terminal, by its own end.
    pub(crate) fn of_terminal(stream: Stream, terminal: OwnedFd) -> Self {
        Self {
            is_terminal: true,
            ..Self::new(stream, Some(terminal))
        }
    }

    /// The pipe, for the next program that writes to it.
    pub(crate) fn into_pipe(self) -> Option<OwnedFd> {
        self.pipe
    }

    /// The pipe, while it is worth waiting for bytes in it.
    pub(crate) fn awaited(&self, limits: &Limits, now: Instant) -> Option<BorrowedFd<'_>> {
        let room = (self.gathered.len() as u64) < limits.chunk_bytes;
        let comes = self.left.is_none() || self.until.is_some();
        self.pipe
            .as_ref()
            .filter(|_| room && comes && self.rest.is_none_or(|rest| now >= rest))
            .map(AsFd::as_fd)
    }

    /// What time has brought.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.rest = self.rest.filter(|rest| now < *rest);
    }

    /// The pipe holds bytes, or its end.
    pub(crate) fn is_readable(&mut self) {
        self.readable = true;
    }

    /// The program has ended: what the pipe holds now is the last.
    pub(crate) fn end(&mut self, now: Instant) {
        if self.is_terminal && self.pipe.is_some() {
            self.until = Some(now + TERMINAL_PATIENCE);
            self.left = Some(u64::MAX);
            return;
        }
        let held = self.pipe.as_ref().map_or(Ok(0), rustix::io::ioctl_fionread);
        self.left = Some(held.unwrap_or(0));
        self.readable = true;
    }

    /// Drops what was not read or sent yet. Only after the end.
    pub(crate) fn discard(&mut self) {
        self.drain();
        self.gathered = Vec::new();
        self.since = None;
        self.until = None;
        self.left = Some(0);
        self.splitter.finish();
    }

    /// Throws away what the pipe holds now, so that no later program is said to have written it.
    fn drain(&mut self) {
        let mut dropped = [0; 4096];
        while let (Some(left @ 1..), Some(pipe)) = (&mut self.left, &self.pipe) {
            match rustix::io::read(pipe, &mut dropped) {
                Ok(bytes @ 1..) => *left -= (bytes as u64).min(*left),
                _ => break,
            }
        }
    }

    /// Everything was read and sent.
    pub(crate) fn is_done(&self) -> bool {
        self.left == Some(0) && self.gathered.is_empty() && self.splitter.pending() == 0
    }

    /// There is something to do without waiting for the program.
    pub(crate) fn has_work(&self) -> bool {
        self.left.is_some() && !self.is_done() && (self.readable || self.until.is_none())
    }

    /// What was sent.
    pub(crate) fn summary(&self) -> StreamSummary {
        self.summary
    }

    /// When something is due: gathered bytes must go, or, where more may be read, the pipe is to be looked at.
    pub(crate) fn deadline(&self, limits: &Limits, can_read: bool) -> Option<Instant> {
        let flush = self
            .since
            .map(|since| since + Duration::from_millis(limits.flush_ms));
        // After the program's end nothing is waited for.
        let rest = self.rest.filter(|_| self.left.is_none());
        let looks = self.until.into_iter().chain(rest);
        flush.into_iter().chain(looks.filter(|_| can_read)).min()
    }

    /// Reads once, at most up to a full chunk and `allowed`. Returns how many bytes came.
    pub(crate) fn read(
        &mut self,
        allowed: u64,
        outbox: &mut Outbox,
        limits: &Limits,
        now: Instant,
    ) -> u64 {
        let is_late = self.until.is_some_and(|until| now >= until);
        self.readable |= is_late;
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.readable) else {
            return 0;
        };
        let room = limits
            .chunk_bytes
            .saturating_sub(self.gathered.len() as u64);
        let most = room.min(allowed).min(self.left.unwrap_or(u64::MAX));
        let Some(most) = usize::try_from(most).ok().filter(|most| *most > 0) else {
            return 0;
        };
        if self.gathered.capacity() == 0 {
            self.gathered = outbox.buffer(usize::try_from(limits.chunk_bytes).unwrap_or(most));
        }
        let before = self.gathered.len();
        let spare = self.gathered.capacity() - before;
        let result = if most == spare {
            rustix::io::read(pipe, spare_capacity(&mut self.gathered))
        } else {
            self.gathered.resize(before + most, 0);
            let result = rustix::io::read(pipe, &mut self.gathered[before..]);
            self.gathered.truncate(before + result.unwrap_or(0));
            result
        };
        // A pipe that gave less than asked for is empty now. After the end only a refusal says so: what it was
        // seen to hold may come in packets, or be read by others.
        self.readable = result == Ok(most) || (self.left.is_some() && result.is_ok());
        match result {
            Ok(0) => self.close(),
            Ok(bytes) => {
                self.since.get_or_insert(now);
                let is_fast = self.begun && bytes < most;
                self.rest = is_fast.then(|| now + REST);
                if let Some(left) = &mut self.left {
                    *left -= (bytes as u64).min(*left);
                }
                return bytes as u64;
            }
            Err(Errno::INTR) => self.readable = true,
            // A terminal's end is yet to come.
            Err(Errno::AGAIN) if self.until.is_some() && !is_late => {}
            // After the end this means that somebody else has taken the bytes.
            Err(Errno::AGAIN) => self.left = self.left.map(|_| 0),
            Err(_) => self.close(),
        }
        0
    }

    fn close(&mut self) {
        self.pipe = None;
        self.until = None;
        self.left = self.left.map(|_| 0);
    }

    /// Sends what is gathered if it is time: the first bytes at once, then a full chunk, or what
    /// has waited long enough, or the rest after the end.
    pub(crate) fn flush(
        &mut self,
        framing: &mut Framing,
        outbox: &mut Outbox,
        limits: &Limits,
        now: Instant,
    ) {
        let over = self.left == Some(0);
        let full = self.gathered.len() as u64 >= limits.chunk_bytes;
        let waited = self
            .deadline(limits, false)
            .is_some_and(|deadline| now >= deadline);
        if self.gathered.is_empty() && !over {
            return;
        }
        if self.begun && !full && !waited && !over {
            return;
        }
        self.begun = true;
        self.since = None;
        let bytes = std::mem::take(&mut self.gathered);
        self.summary.bytes += bytes.len() as u64;
        self.summary.crc32c = crate::checksum::append(self.summary.crc32c, &bytes);
        if framing.encoding == Encoding::Raw {
            self.send_raw(bytes, framing, outbox);
            return;
        }
        let whole = self.splitter.push(&bytes);
        self.send(whole, framing, outbox);
        if over {
            let rest = self.splitter.finish();
            self.send(rest, framing, outbox);
        }
    }

    /// Keeps what is gathered as a piece of its own, and sends it to nobody.
    pub(crate) fn settle(&mut self, framing: &mut Framing) {
        let gathered = std::mem::take(&mut self.gathered);
        self.since = None;
        self.summary.bytes += gathered.len() as u64;
        self.summary.crc32c = crate::checksum::append(self.summary.crc32c, &gathered);
        // The beginning of a character may have waited for its end.
        let mut piece = self.splitter.finish();
        piece.extend_from_slice(&gathered);
        if !piece.is_empty() {
            framing.keep(self.stream, &piece);
            framing.seq += 1;
        }
    }

    fn send_raw(&self, bytes: Vec<u8>, framing: &mut Framing, outbox: &mut Outbox) {
        if !bytes.is_empty() {
            framing.keep(self.stream, &bytes);
            framing.send_frame(self.stream, framing.seq, bytes, outbox);
            framing.seq += 1;
        }
    }

    fn send(&self, bytes: Vec<u8>, framing: &mut Framing, outbox: &mut Outbox) {
        if !bytes.is_empty() {
            framing.keep(self.stream, &bytes);
            framing.send_chunk(self.stream, framing.seq, bytes, outbox);
            framing.seq += 1;
        }
    }
}

impl Framing {
    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.add(stream, bytes);
        }
    }

    /// Sends a piece as the client has it.
    pub(crate) fn send(&self, stream: Stream, seq: u64, bytes: Vec<u8>, outbox: &mut Outbox) {
        if self.encoding == Encoding::Raw {
            self.send_frame(stream, seq, bytes, outbox);
        } else {
            self.send_chunk(stream, seq, bytes, outbox);
        }
    }

    fn send_frame(&self, stream: Stream, seq: u64, bytes: Vec<u8>, outbox: &mut Outbox) {
        let (op_id, len) = (self.op_id, bytes.len() as u64);
        outbox.output(&Response::Data(Data {
            op_id,
            stream,
            seq,
            len,
        }));
        outbox.raw(bytes);
    }

    fn send_chunk(&self, stream: Stream, seq: u64, bytes: Vec<u8>, outbox: &mut Outbox) {
        let exact = self.encoding != Encoding::Text;
        let chunk = match Chunk::from(bytes) {
            Chunk::Bytes(bytes) if !exact => {
                Chunk::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            chunk => chunk,
        };
        let output = Output {
            op_id: self.op_id,
            seq: exact.then_some(seq),
            chunk,
        };
        outbox.output(&match stream {
            Stream::Stdout => Response::Stdout(output),
            Stream::Stderr => Response::Stderr(output),
            Stream::Result => Response::Result(output),
            Stream::File => Response::File(output),
        });
    }
}

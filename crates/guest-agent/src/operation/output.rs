use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{
    Chunk, Data, Limits, OpId, Output, Response, Stream, StreamSummary, Utf8Splitter,
};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::journal::OutputHistory;
use crate::transport::{Encoding, Outbox};

/// How the output of one operation is framed on the wire.
#[derive(Debug)]
pub(crate) struct Framing {
    pub(crate) op_id: Option<OpId>,
    /// The encoding of the client's session.
    pub(crate) encoding: Encoding,
    /// The number of the next piece.
    pub(crate) seq: u64,
    /// Earlier output, if clients can attach to the operation.
    pub(crate) history: Option<OutputHistory>,
}

/// One output stream of a program: bytes are read, buffered and sent.
#[derive(Debug)]
pub(crate) struct OutputStream {
    stream: Stream,
    pipe: Option<OwnedFd>,
    buffered: Vec<u8>,
    /// When the first buffered byte was read.
    buffered_since: Option<Instant>,
    /// Output was sent before.
    has_flushed: bool,
    /// `poll` has reported the pipe as readable.
    readable: bool,
    splitter: Utf8Splitter,
    summary: StreamSummary,
    /// After the end of the program: bytes that were in the pipe then and are still to be read.
    remaining: Option<u64>,
    /// The stream is a terminal, which may pass on output after its writer has ended.
    is_terminal: bool,
    /// How long to wait for the last output of a terminal.
    terminal_deadline: Option<Instant>,
    /// The pipe is not read until then, so that its writer can fill it.
    paused_until: Option<Instant>,
    /// Bytes in the pipe that were written before those of another stream, and must be read before them.
    older: u64,
}

/// How long a pipe is not read after a short read, except for the first output. Without it, a program that writes small
/// pieces would be interrupted for each of them. Filling its pipe takes this long.
const READ_PAUSE: Duration = Duration::from_micros(500);

/// How long a terminal may take to pass on the last output.
const TERMINAL_TIMEOUT: Duration = Duration::from_millis(500);

impl OutputStream {
    /// Creates a stream that reads from this non-blocking pipe. Without a pipe, the stream is at its end.
    pub(crate) fn new(stream: Stream, pipe: Option<OwnedFd>) -> Self {
        Self {
            stream,
            pipe,
            buffered: Vec::new(),
            buffered_since: None,
            has_flushed: false,
            readable: false,
            splitter: Utf8Splitter::default(),
            summary: StreamSummary::default(),
            remaining: None,
            is_terminal: false,
            terminal_deadline: None,
            paused_until: None,
            older: 0,
        }
    }

    /// Creates a stream that reads from the agent's end of a terminal.
    pub(crate) fn of_terminal(stream: Stream, terminal: OwnedFd) -> Self {
        Self {
            is_terminal: true,
            ..Self::new(stream, Some(terminal))
        }
    }

    /// Returns the pipe, for the next program that writes to it.
    pub(crate) fn into_pipe(self) -> Option<OwnedFd> {
        self.pipe
    }

    /// The pipe, while more output may come and there is space to buffer it.
    pub(crate) fn poll_fd(&self, limits: &Limits, now: Instant) -> Option<BorrowedFd<'_>> {
        let has_space = (self.buffered.len() as u64) < limits.chunk_bytes;
        let may_come = self.remaining.is_none() || self.terminal_deadline.is_some();
        self.pipe
            .as_ref()
            .filter(|_| has_space && may_come)
            .filter(|_| self.paused_until.is_none_or(|until| now >= until))
            .map(AsFd::as_fd)
    }

    /// Ends a pause that is over.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|until| now < *until);
    }

    /// Notes that the pipe has bytes or is at its end.
    pub(crate) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Notes that another stream has become readable. What this pipe holds after a pause was written before: the agent
    /// runs before the program when a pipe becomes readable.
    pub(crate) fn other_is_readable(&mut self) {
        if self.paused_until.take().is_some() {
            self.older = self.held_bytes();
            self.readable |= self.older > 0;
        }
    }

    /// Ends a pause, so that this stream's next bytes are noticed at once and not only after those of another stream.
    pub(crate) fn end_pause(&mut self) {
        self.paused_until = None;
    }

    /// Whether it has unread bytes that are older than those of another stream.
    pub(crate) fn is_older(&self) -> bool {
        self.older > 0 && self.readable
    }

    fn held_bytes(&self) -> u64 {
        let held = self.pipe.as_ref().map_or(Ok(0), rustix::io::ioctl_fionread);
        held.unwrap_or(0)
    }

    /// Notes the end of the program: only the current contents of the pipe belong to it.
    pub(crate) fn end(&mut self, now: Instant) {
        if self.is_terminal && self.pipe.is_some() {
            self.terminal_deadline = Some(now + TERMINAL_TIMEOUT);
            self.remaining = Some(u64::MAX);
            return;
        }

        self.remaining = Some(self.held_bytes());
        self.readable = true;
    }

    /// Drops the output that was not read or sent yet. Call it only after the end.
    pub(crate) fn discard(&mut self) {
        self.drain();
        self.buffered = Vec::new();
        self.buffered_since = None;
        self.terminal_deadline = None;
        self.remaining = Some(0);
        self.splitter.finish();
    }

    /// Discards the contents of the pipe, so that they are not taken for a later program's output.
    fn drain(&mut self) {
        let mut discarded = [0; 4096];
        while let (Some(remaining @ 1..), Some(pipe)) = (&mut self.remaining, &self.pipe) {
            match rustix::io::read(pipe, &mut discarded) {
                Ok(bytes @ 1..) => *remaining -= (bytes as u64).min(*remaining),
                _ => break,
            }
        }
    }

    /// Whether everything was read and sent.
    pub(crate) fn is_done(&self) -> bool {
        self.remaining == Some(0) && self.buffered.is_empty() && self.splitter.pending() == 0
    }

    /// Whether there is something to do without a further event.
    pub(crate) fn has_work(&self) -> bool {
        self.remaining.is_some()
            && !self.is_done()
            && (self.readable || self.terminal_deadline.is_none())
    }

    /// Size and checksum of the output so far.
    pub(crate) fn summary(&self) -> StreamSummary {
        self.summary
    }

    /// When buffered bytes must be sent, or, if more may be read, when the pipe must be read again.
    pub(crate) fn deadline(&self, limits: &Limits, can_read: bool) -> Option<Instant> {
        let flush = self
            .buffered_since
            .map(|buffered_since| buffered_since + Duration::from_millis(limits.flush_ms));

        // After the end of the program there are no pauses.
        let pause_end = self.paused_until.filter(|_| self.remaining.is_none());
        let reads = self.terminal_deadline.into_iter().chain(pause_end);
        flush.into_iter().chain(reads.filter(|_| can_read)).min()
    }

    /// Reads once, up to a full chunk and at most `allowed` bytes. Returns the number of bytes read.
    pub(crate) fn read(
        &mut self,
        allowed: u64,
        outbox: &mut Outbox,
        limits: &Limits,
        now: Instant,
    ) -> u64 {
        let is_late = self
            .terminal_deadline
            .is_some_and(|terminal_deadline| now >= terminal_deadline);
        self.readable |= is_late;
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.readable) else {
            return 0;
        };

        let room = limits
            .chunk_bytes
            .saturating_sub(self.buffered.len() as u64);

        let max = room.min(allowed).min(self.remaining.unwrap_or(u64::MAX));
        let Some(max) = usize::try_from(max).ok().filter(|max| *max > 0) else {
            return 0;
        };

        if self.buffered.capacity() == 0 {
            self.buffered = outbox.take_buffer(usize::try_from(limits.chunk_bytes).unwrap_or(max));
        }

        let before = self.buffered.len();
        let spare = self.buffered.capacity() - before;
        let result = if max == spare {
            rustix::io::read(pipe, spare_capacity(&mut self.buffered))
        } else {
            self.buffered.resize(before + max, 0);
            let result = rustix::io::read(pipe, &mut self.buffered[before..]);
            self.buffered.truncate(before + result.unwrap_or(0));
            result
        };

        // After a short read the pipe is empty. After the end of the program only EAGAIN proves that: the bytes may
        // come in packets, or others may read them.
        self.readable = result == Ok(max) || (self.remaining.is_some() && result.is_ok());
        match result {
            Ok(0) => self.close(),
            Ok(bytes) => {
                self.buffered_since.get_or_insert(now);
                let is_fast = self.has_flushed && bytes < max;
                self.paused_until = is_fast.then(|| now + READ_PAUSE);
                self.older = self.older.saturating_sub(bytes as u64);

                if let Some(remaining) = &mut self.remaining {
                    *remaining -= (bytes as u64).min(*remaining);
                }

                return bytes as u64;
            }
            Err(Errno::INTR) => self.readable = true,
            // The last output of a terminal is still to come.
            Err(Errno::AGAIN) if self.terminal_deadline.is_some() && !is_late => {}
            // After the end of the program this means that another process has read the bytes.
            Err(Errno::AGAIN) => self.remaining = self.remaining.map(|_| 0),
            Err(_) => self.close(),
        }

        0
    }

    fn close(&mut self) {
        self.pipe = None;
        self.terminal_deadline = None;
        self.remaining = self.remaining.map(|_| 0);
    }

    /// Sends the buffered bytes if it is time: the first bytes at once, then a full chunk, or bytes that have waited
    /// long enough, or the rest after the end. With `is_due`, it is time.
    pub(crate) fn flush(
        &mut self,
        framing: &mut Framing,
        outbox: &mut Outbox,
        limits: &Limits,
        now: Instant,
        is_due: bool,
    ) {
        let is_over = self.remaining == Some(0);
        let is_full = self.buffered.len() as u64 >= limits.chunk_bytes;
        let is_due = is_due
            || self
                .deadline(limits, false)
                .is_some_and(|deadline| now >= deadline);

        if self.buffered.is_empty() && !is_over {
            return;
        }

        if self.has_flushed && !is_full && !is_due && !is_over {
            return;
        }

        self.has_flushed = true;
        self.buffered_since = None;
        let bytes = std::mem::take(&mut self.buffered);
        self.summary.bytes += bytes.len() as u64;
        self.summary.crc32c = crate::checksum::append(self.summary.crc32c, &bytes);

        if framing.encoding == Encoding::Raw {
            self.send_raw(bytes, framing, outbox);
            return;
        }

        // A character may be split between two chunks.
        let complete = self.splitter.push(&bytes);
        self.send(complete, framing, outbox);
        if is_over {
            let rest = self.splitter.finish();
            self.send(rest, framing, outbox);
        }
    }

    /// Moves the buffered bytes to the history as a separate piece, without sending them.
    pub(crate) fn flush_to_history(&mut self, framing: &mut Framing) {
        let buffered = std::mem::take(&mut self.buffered);
        self.buffered_since = None;
        self.summary.bytes += buffered.len() as u64;
        self.summary.crc32c = crate::checksum::append(self.summary.crc32c, &buffered);
        // The first bytes of a character may be waiting for the rest of it.
        let mut piece = self.splitter.finish();
        piece.extend_from_slice(&buffered);

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
        if let Some(history) = &mut self.history {
            history.add(stream, bytes);
        }
    }

    /// Sends a piece in the client's encoding.
    pub(crate) fn send(&self, stream: Stream, seq: u64, bytes: Vec<u8>, outbox: &mut Outbox) {
        if self.encoding == Encoding::Raw {
            self.send_frame(stream, seq, bytes, outbox);
        } else {
            self.send_chunk(stream, seq, bytes, outbox);
        }
    }

    fn send_frame(&self, stream: Stream, seq: u64, bytes: Vec<u8>, outbox: &mut Outbox) {
        let (op_id, len) = (self.op_id, bytes.len() as u64);
        outbox.push_output(&Response::Data(Data {
            op_id,
            stream,
            seq,
            len,
        }));

        outbox.push_raw(bytes);
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

        outbox.push_output(&match stream {
            Stream::Stdout => Response::Stdout(output),
            Stream::Stderr => Response::Stderr(output),
            Stream::Result => Response::Result(output),
            Stream::File => Response::File(output),
        });
    }
}

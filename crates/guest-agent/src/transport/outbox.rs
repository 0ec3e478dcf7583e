use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::AsFd;

use fumehood_protocol::{ErrorMessage, Limits, OpId, Response, WireError, encode_line};
use rustix::io::Errno;

use crate::settings::VERSION;

/// Bytes that are queued for one client.
///
/// Output of programs and answers are counted separately. Output is no longer read when too much of either is queued;
/// requests are no longer read only when too many *answers* are. So a client that reads slowly can still cancel, and
/// neither kind can pile up.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that were sent.
    sent: usize,
    output_bytes: usize,
    answer_bytes: usize,
    /// A buffer that was sent, for the next output.
    spare: Option<Vec<u8>>,
    /// There is no client: everything is dropped.
    is_discarding: bool,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    is_output: bool,
}

impl Piece {
    /// Whether this answer can be appended. Each piece wakes up the other side of a virtio port.
    fn can_append(&self, answer: &[u8]) -> bool {
        !self.is_output && self.bytes.len() + answer.len() <= ANSWER_BATCH_BYTES
    }
}

/// Maximum size of a piece that several answers share, in bytes.
const ANSWER_BATCH_BYTES: usize = 4096;

/// The result of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendStatus {
    /// Everything was sent, or as much as the client accepts now.
    Progress,
    /// The client is gone.
    Disconnected,
}

/// Returns an `error` message.
pub(crate) fn error_response(op_id: Option<OpId>, error: WireError) -> Response {
    Response::Error(ErrorMessage::new(op_id, error, VERSION))
}

/// Maximum number of pieces that are passed to the kernel in one call.
const MAX_SLICES: usize = 32;

impl Outbox {
    /// Creates an outbox that drops everything.
    pub(crate) fn discarding() -> Self {
        Self {
            is_discarding: true,
            ..Self::default()
        }
    }

    /// Adds an answer.
    pub(crate) fn answer(&mut self, response: &Response) {
        if self.is_discarding {
            return;
        }

        let mut bytes = encode_line(response);
        self.answer_bytes += bytes.len();
        if let Some(last) = self
            .pieces
            .back_mut()
            .filter(|last| last.can_append(&bytes))
        {
            last.bytes.append(&mut bytes);
            return;
        }

        self.pieces.push_back(Piece {
            bytes,
            is_output: false,
        });
    }

    /// Adds output as a message.
    pub(crate) fn push_output(&mut self, response: &Response) {
        if self.is_discarding {
            return;
        }
        self.push_raw(encode_line(response));
    }

    /// Adds output bytes as they are.
    pub(crate) fn push_raw(&mut self, bytes: Vec<u8>) {
        if self.is_discarding {
            return self.return_buffer(bytes);
        }

        self.output_bytes += bytes.len();
        self.pieces.push_back(Piece {
            bytes,
            is_output: true,
        });
    }

    /// Returns an empty buffer for exactly `capacity` bytes of output.
    pub(crate) fn take_buffer(&mut self, capacity: usize) -> Vec<u8> {
        match self.spare.take() {
            Some(buffer) if buffer.capacity() == capacity => buffer,
            _ => Vec::with_capacity(capacity),
        }
    }

    /// Takes back a buffer that is no longer needed.
    pub(crate) fn return_buffer(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare = Some(buffer);
    }

    /// Adds an `error`.
    pub(crate) fn push_error(&mut self, op_id: Option<OpId>, error: WireError) {
        self.answer(&error_response(op_id, error));
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether so much is queued that no more output may be read.
    pub(crate) fn is_full(&self, limits: &Limits) -> bool {
        (self.output_bytes + self.answer_bytes) as u64 >= limits.queued_bytes
    }

    /// Whether so many answers are queued that no more requests may be read.
    pub(crate) fn has_too_many_answers(&self, limits: &Limits) -> bool {
        self.answer_bytes as u64 >= limits.queued_bytes
    }

    /// Sends as much as the client accepts.
    pub(crate) fn send(&mut self, to: impl AsFd) -> SendStatus {
        while !self.pieces.is_empty() {
            match self.send_some(to.as_fd()) {
                Ok(0) => return SendStatus::Progress,
                Ok(bytes) => self.remove(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return SendStatus::Progress,
                Err(_) => return SendStatus::Disconnected,
            }
        }

        SendStatus::Progress
    }

    fn send_some(&self, to: impl AsFd) -> rustix::io::Result<usize> {
        if let (1, Some(piece)) = (self.pieces.len(), self.pieces.front()) {
            return rustix::io::write(to, &piece.bytes[self.sent..]);
        }

        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut from = self.sent;
        let mut used = 0;

        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(&piece.bytes[from..]);
            from = 0;
            used += 1;
        }

        rustix::io::writev(to, &slices[..used])
    }

    fn remove(&mut self, bytes: usize) {
        let mut left = self.sent + bytes;
        while let Some(first) = self.pieces.front() {
            let len = first.bytes.len();
            if left < len {
                break;
            }

            left -= len;
            let is_output = first.is_output;
            let Some(Piece { bytes, .. }) = self.pieces.pop_front() else {
                break;
            };

            if is_output {
                self.output_bytes -= len;
                self.return_buffer(bytes);
            } else {
                self.answer_bytes -= len;
            }
        }

        self.sent = left;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn everything_arrives_in_order_and_counters_return_to_zero() {
        let (here, mut there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let pieces: Vec<Vec<u8>> = (0..2000_u32)
            .map(|n| vec![n.to_le_bytes()[0]; n as usize])
            .collect();

        let expected = pieces.concat();
        let mut outbox = Outbox::default();
        pieces.into_iter().for_each(|piece| outbox.push_raw(piece));
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            there.read_to_end(&mut all).unwrap();
            all
        });

        while !outbox.is_empty() {
            assert_eq!(outbox.send(&here), SendStatus::Progress);
            std::thread::yield_now();
        }

        drop(here);
        assert_eq!(reader.join().unwrap(), expected);
        assert_eq!(
            (outbox.output_bytes, outbox.answer_bytes, outbox.sent),
            (0, 0, 0)
        );
    }

    #[test]
    fn closed_peer_is_detected() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        let mut outbox = Outbox::default();
        outbox.push_raw(b"x".to_vec());
        assert_eq!(outbox.send(&here), SendStatus::Disconnected);
    }
}

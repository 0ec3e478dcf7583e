use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::AsFd;

use fumehood_protocol::{ErrorMessage, Limits, OpId, Response, WireError, encode_line};
use rustix::io::Errno;

use crate::settings::VERSION;

/// Bytes that wait to be sent to one client.
///
/// Output of programs and everything else are counted apart: output stops being read when too much
/// of anything waits, requests stop being read only when too many *answers* wait. So a client that
/// reads slowly can still cancel, and neither kind can pile up.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that were sent.
    sent: usize,
    output_bytes: usize,
    answer_bytes: usize,
    /// A buffer that was sent, for the next output.
    spare: Option<Vec<u8>>,
    /// Nobody is there: what is added is dropped.
    is_nowhere: bool,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    output: bool,
}

impl Piece {
    /// Whether this answer can go into it. Each piece is a wake-up of a virtio port's other side.
    fn takes(&self, answer: &[u8]) -> bool {
        !self.output && self.bytes.len() + answer.len() <= TOGETHER_BYTES
    }
}

/// Bytes of answers that go as one piece.
const TOGETHER_BYTES: usize = 4096;

/// What became of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Everything, or all that the other side takes now.
    SoFar,
    /// The other side is gone.
    Gone,
}

/// An `error`.
pub(crate) fn refusal(op_id: Option<OpId>, error: WireError) -> Response {
    Response::Error(ErrorMessage::new(op_id, error, VERSION))
}

/// Pieces handed to the kernel in one call.
const AT_ONCE: usize = 32;

impl Outbox {
    /// Takes what nobody follows, and drops it.
    pub(crate) fn nowhere() -> Self {
        Self {
            is_nowhere: true,
            ..Self::default()
        }
    }

    /// Adds an answer.
    pub(crate) fn answer(&mut self, response: &Response) {
        if self.is_nowhere {
            return;
        }
        let mut bytes = encode_line(response);
        self.answer_bytes += bytes.len();
        if let Some(last) = self.pieces.back_mut().filter(|last| last.takes(&bytes)) {
            last.bytes.append(&mut bytes);
            return;
        }
        self.pieces.push_back(Piece {
            bytes,
            output: false,
        });
    }

    /// Adds output as a message.
    pub(crate) fn output(&mut self, response: &Response) {
        if self.is_nowhere {
            return;
        }
        self.raw(encode_line(response));
    }

    /// Adds output as it is.
    pub(crate) fn raw(&mut self, bytes: Vec<u8>) {
        if self.is_nowhere {
            return self.give_back(bytes);
        }
        self.output_bytes += bytes.len();
        self.pieces.push_back(Piece {
            bytes,
            output: true,
        });
    }

    /// An empty buffer for exactly `capacity` bytes of output.
    pub(crate) fn buffer(&mut self, capacity: usize) -> Vec<u8> {
        match self.spare.take() {
            Some(buffer) if buffer.capacity() == capacity => buffer,
            _ => Vec::with_capacity(capacity),
        }
    }

    /// A buffer that was not needed after all.
    pub(crate) fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare = Some(buffer);
    }

    /// Adds an `error`.
    pub(crate) fn refuse(&mut self, op_id: Option<OpId>, error: WireError) {
        self.answer(&refusal(op_id, error));
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// No more output may be read from programs.
    pub(crate) fn is_full(&self, limits: &Limits) -> bool {
        (self.output_bytes + self.answer_bytes) as u64 >= limits.queued_bytes
    }

    /// No more requests may be read from the client.
    pub(crate) fn has_too_many_answers(&self, limits: &Limits) -> bool {
        self.answer_bytes as u64 >= limits.queued_bytes
    }

    /// Sends what the other side takes.
    pub(crate) fn send(&mut self, to: impl AsFd) -> Sent {
        while !self.pieces.is_empty() {
            match self.send_some(to.as_fd()) {
                Ok(0) => return Sent::SoFar,
                Ok(bytes) => self.remove(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Sent::SoFar,
                Err(_) => return Sent::Gone,
            }
        }
        Sent::SoFar
    }

    fn send_some(&self, to: impl AsFd) -> rustix::io::Result<usize> {
        if let (1, Some(piece)) = (self.pieces.len(), self.pieces.front()) {
            return rustix::io::write(to, &piece.bytes[self.sent..]);
        }
        let mut slices = [IoSlice::new(&[]); AT_ONCE];
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
            let output = first.output;
            let Some(Piece { bytes, .. }) = self.pieces.pop_front() else {
                break;
            };
            if output {
                self.output_bytes -= len;
                self.give_back(bytes);
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
    fn all_arrives_in_order_and_nothing_is_left_counted() {
        let (here, mut there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let pieces: Vec<Vec<u8>> = (0..2000_u32)
            .map(|n| vec![n.to_le_bytes()[0]; n as usize])
            .collect();
        let expected = pieces.concat();
        let mut outbox = Outbox::default();
        pieces.into_iter().for_each(|piece| outbox.raw(piece));
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            there.read_to_end(&mut all).unwrap();
            all
        });
        while !outbox.is_empty() {
            assert_eq!(outbox.send(&here), Sent::SoFar);
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
    fn a_closed_peer_is_noticed() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        let mut outbox = Outbox::default();
        outbox.raw(b"x".to_vec());
        assert_eq!(outbox.send(&here), Sent::Gone);
    }
}

//! Redacts values in the messages of a WebSocket server.
//!
//! Messages are cut into frames anew: a value and its mask differ in length, and the length of a frame is in front of it.
//! The bytes that a message holds back are released at its end.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};

use crate::secret::{Redactor, SecretMatcher};

const FINAL: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const CONTINUATION: u8 = 0;
const FIRST_CONTROL: u8 = 8;
const MASKED: u8 = 0x80;

/// Maximum length of a control frame's payload, in bytes (RFC 6455, 5.5).
const MAX_CONTROL_BYTES: usize = 125;

/// The frames of one server, on their way to the guest.
#[derive(Debug)]
pub(super) struct RedactedFrames {
    redactor: Redactor,
    /// Redacts control frames, which may stand between the frames of a message.
    control: Redactor,
    state: State,
    /// The bytes of a frame's header, or of a control frame's payload, that have arrived.
    pending: Vec<u8>,
    /// The opcode of the message's next frame.
    next_opcode: u8,
    is_in_message: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    Data { left: u64, is_final: bool },
    Control { first_byte: u8, length: usize },
}

impl RedactedFrames {
    pub(super) fn new(matcher: Arc<SecretMatcher>) -> Self {
        Self {
            redactor: Redactor::new(Arc::clone(&matcher)),
            control: Redactor::new(matcher),
            state: State::Header,
            pending: Vec::new(),
            next_opcode: CONTINUATION,
            is_in_message: false,
        }
    }

    /// Takes bytes of the server; returns frames for the guest.
    ///
    /// # Errors
    /// Fails if the bytes are not frames that a server may send without extensions.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> io::Result<BytesMut> {
        let mut out = BytesMut::new();
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Header => self.push_header(bytes, &mut out)?,
                State::Data { left, is_final } => self.push_data(bytes, left, is_final, &mut out),
                State::Control { first_byte, length } => {
                    self.push_control(bytes, first_byte, length, &mut out)
                }
            };
            bytes = &bytes[taken..];
        }
        Ok(out)
    }

    /// Takes one byte of a header.
    fn push_header(&mut self, bytes: &[u8], out: &mut BytesMut) -> io::Result<usize> {
        self.pending.push(bytes[0]);
        let Some((first_byte, length)) = parse_header(&self.pending)? else {
            return Ok(1);
        };
        self.pending.clear();

        let (opcode, is_final) = (first_byte & OPCODE, first_byte & FINAL != 0);
        if opcode >= FIRST_CONTROL {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > MAX_CONTROL_BYTES || !is_final {
                return Err(invalid("a control frame is too long or not whole"));
            }
            self.state = State::Control { first_byte, length };
            if length == 0 {
                self.push_control(&[], first_byte, 0, out);
            }
            return Ok(1);
        }

        if (opcode == CONTINUATION) != self.is_in_message {
            return Err(invalid(
                "a message starts within another one, or continues none",
            ));
        }
        if !self.is_in_message {
            self.next_opcode = opcode;
        }
        self.is_in_message = true;
        self.state = State::Data {
            left: length,
            is_final,
        };
        if length == 0 {
            self.push_data(&[], 0, is_final, out);
        }
        Ok(1)
    }

    /// Takes bytes of a message; returns how many.
    fn push_data(&mut self, bytes: &[u8], left: u64, is_final: bool, out: &mut BytesMut) -> usize {
        let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - taken as u64;
        let mut released = BytesMut::from(&*self.redactor.push(&bytes[..taken]));
        self.state = State::Data { left, is_final };

        let is_end = left == 0 && is_final;
        if is_end {
            released.extend_from_slice(&self.redactor.finish());
            self.is_in_message = false;
        }
        if left == 0 {
            self.state = State::Header;
        }
        if is_end || !released.is_empty() {
            let fin = if is_end { FINAL } else { 0 };
            put_frame(out, fin | self.next_opcode, &released);
            self.next_opcode = CONTINUATION;
        }
        taken
    }

    /// Takes bytes of a control frame; returns how many.
    fn push_control(
        &mut self,
        bytes: &[u8],
        first_byte: u8,
        length: usize,
        out: &mut BytesMut,
    ) -> usize {
        let taken = bytes.len().min(length - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == length {
            let mut payload = self.control.push(&self.pending).to_vec();
            payload.extend_from_slice(&self.control.finish());
            put_frame(out, first_byte, &payload);
            self.pending.clear();
            self.state = State::Header;
        }
        taken
    }
}

/// Returns a header's first byte and the length of its payload; `None` if more bytes are needed.
fn parse_header(bytes: &[u8]) -> io::Result<Option<(u8, u64)>> {
    let [first_byte, second_byte, extended @ ..] = bytes else {
        return Ok(None);
    };
    if first_byte & !(FINAL | OPCODE) != 0 {
        return Err(invalid("a frame uses an extension that was not agreed on"));
    }
    if second_byte & MASKED != 0 {
        return Err(invalid("a frame of the server is masked"));
    }

    let size = match second_byte {
        126 => 2,
        127 => 8,
        length => return Ok(Some((*first_byte, (*length).into()))),
    };
    if extended.len() < size {
        return Ok(None);
    }
    let length = extended
        .iter()
        .fold(0, |length, &byte| length << 8 | u64::from(byte));
    Ok(Some((*first_byte, length)))
}

fn put_frame(out: &mut BytesMut, first_byte: u8, payload: &[u8]) {
    out.put_u8(first_byte);
    match payload.len() {
        length @ 0..=125 => out.put_u8(u8::try_from(length).unwrap_or_default()),
        length => match u16::try_from(length) {
            Ok(length) => {
                out.put_u8(126);
                out.put_u16(length);
            }
            Err(_) => {
                out.put_u8(127);
                out.put_u64(length as u64);
            }
        },
    }
    out.put_slice(payload);
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the server does not speak WebSocket: {reason}"),
    )
}

use serde::Serialize;

/// What a [`Decoder`] found in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// One line, without its newline.
    Line(Vec<u8>),
    /// A line was longer than the limit (in bytes). Its bytes are dropped up to the next newline.
    TooLong {
        /// The limit that was passed.
        limit: usize,
    },
    /// The bytes of the raw frame that [`Decoder::expect_raw`] announced.
    Raw(Vec<u8>),
}

#[derive(Debug)]
enum Mode {
    Line,
    Discard,
    Raw { missing: usize },
    Skip { missing: u64 },
}

/// Cuts bytes into lines and raw frames; holds no more than the limit.
///
/// The length limit acts before memory is spent: a line is refused at the first byte past the
/// limit, and what follows up to the next newline is dropped, not kept.
///
/// ```
/// use fumehood_protocol::{Decoder, Item};
/// let mut decoder = Decoder::new(8);
/// let mut bytes: &[u8] = b"{}\nfar too long\n{}\n";
/// assert_eq!(decoder.decode(&mut bytes), Some(Item::Line(b"{}".to_vec())));
/// assert_eq!(decoder.decode(&mut bytes), Some(Item::TooLong { limit: 8 }));
/// assert_eq!(decoder.decode(&mut bytes), Some(Item::Line(b"{}".to_vec())));
/// assert_eq!(decoder.decode(&mut bytes), None);
/// ```
#[derive(Debug)]
pub struct Decoder {
    mode: Mode,
    buffer: Vec<u8>,
    limit: usize,
}

/// A buffer that grew past this (bytes) for one long line is given back when the line is done.
const KEEP_CAPACITY: usize = 64 * 1024;

impl Decoder {
    /// A decoder that refuses lines longer than `limit` bytes (the newline not counted).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            mode: Mode::Line,
            buffer: Vec::new(),
            limit,
        }
    }

    /// Refuses lines longer than `limit` bytes from the next one on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes the next item out of `input`, or all of `input` when it completes none.
    ///
    /// Call it until it returns `None`; `input` is empty then.
    pub fn decode(&mut self, input: &mut &[u8]) -> Option<Item> {
        while !input.is_empty() {
            let item = match self.mode {
                Mode::Line => self.line(input),
                Mode::Discard => {
                    match newline(input) {
                        Some(at) => {
                            *input = &input[at + 1..];
                            self.mode = Mode::Line;
                        }
                        None => *input = &[],
                    }
                    None
                }
                Mode::Raw { missing } => self.raw(missing, input),
                Mode::Skip { missing } => {
                    let now = missing.min(input.len() as u64);
                    *input = &input[usize::try_from(now).unwrap_or(input.len())..];
                    self.mode = match missing - now {
                        0 => Mode::Line,
                        missing => Mode::Skip { missing },
                    };
                    None
                }
            };
            if item.is_some() {
                return item;
            }
        }
        None
    }

    /// The next `len` bytes are a raw frame. Call it right after the line that announced it.
    ///
    /// The caller checks `len` against its own bound first. A frame of 0 bytes yields no item.
    pub fn expect_raw(&mut self, len: usize) {
        debug_assert!(self.buffer.is_empty(), "a frame follows a complete line");
        if len > 0 {
            self.mode = Mode::Raw { missing: len };
        }
    }

    /// The next `len` bytes are a raw frame that nobody wants: they yield no item.
    pub fn skip_raw(&mut self, len: u64) {
        debug_assert!(self.buffer.is_empty(), "a frame follows a complete line");
        if len > 0 {
            self.mode = Mode::Skip { missing: len };
        }
    }

    /// Bytes held for an item that is not complete.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    fn line(&mut self, input: &mut &[u8]) -> Option<Item> {
        let end = newline(input);
        let part = &input[..end.unwrap_or(input.len())];
        let too_long = self.buffer.len() + part.len() > self.limit;
        if too_long {
            self.buffer = Vec::new();
            self.mode = if end.is_some() {
                Mode::Line
            } else {
                Mode::Discard
            };
        } else {
            self.buffer.extend_from_slice(part);
        }
        *input = end.map_or(&[], |at| &input[at + 1..]);
        if too_long {
            return Some(Item::TooLong { limit: self.limit });
        }
        end.map(|_| Item::Line(self.take()))
    }

    fn raw(&mut self, missing: usize, input: &mut &[u8]) -> Option<Item> {
        let (now, rest) = input.split_at(missing.min(input.len()));
        self.buffer.extend_from_slice(now);
        *input = rest;
        let missing = missing - now.len();
        if missing > 0 {
            self.mode = Mode::Raw { missing };
            return None;
        }
        self.mode = Mode::Line;
        Some(Item::Raw(self.take()))
    }

    fn take(&mut self) -> Vec<u8> {
        let next = Vec::with_capacity(self.buffer.len().min(KEEP_CAPACITY));
        std::mem::replace(&mut self.buffer, next)
    }
}

fn newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&b| b == b'\n')
}

/// One message as a line, its newline included.
///
/// # Panics
/// Never for the types of this crate: all their map keys are strings.
#[must_use]
pub fn encode_line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("the protocol's types serialise");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(decoder: &mut Decoder, mut bytes: &[u8]) -> Vec<Item> {
        std::iter::from_fn(|| decoder.decode(&mut bytes)).collect()
    }

    #[test]
    fn a_line_at_the_limit_and_one_past_it() {
        assert_eq!(
            all(&mut Decoder::new(3), b"abc\n"),
            [Item::Line(b"abc".to_vec())]
        );
        assert_eq!(
            all(&mut Decoder::new(3), b"abcd\n"),
            [Item::TooLong { limit: 3 }]
        );
    }

    #[test]
    fn a_line_without_end_holds_no_memory_past_the_limit() {
        let mut decoder = Decoder::new(1024);
        let mut refused = 0;
        for _ in 0..1000 {
            refused += all(&mut decoder, &[b'x'; 1000]).len();
            assert!(decoder.held() <= 1024);
        }
        assert_eq!(refused, 1);
        assert_eq!(all(&mut decoder, b"\nok\n"), [Item::Line(b"ok".to_vec())]);
    }

    #[test]
    fn a_raw_frame_may_hold_newlines() {
        let mut decoder = Decoder::new(100);
        let mut bytes: &[u8] = b"head\na\nb\nnext\n";
        assert_eq!(
            decoder.decode(&mut bytes),
            Some(Item::Line(b"head".to_vec()))
        );
        decoder.expect_raw(4);
        assert_eq!(
            decoder.decode(&mut bytes),
            Some(Item::Raw(b"a\nb\n".to_vec()))
        );
        assert_eq!(
            decoder.decode(&mut bytes),
            Some(Item::Line(b"next".to_vec()))
        );
    }

    #[test]
    fn a_frame_that_nobody_wants_is_skipped() {
        let mut decoder = Decoder::new(100);
        decoder.skip_raw(5);
        let mut found = Vec::new();
        for piece in [&b"a\nb"[..], b"c\nnext\n"] {
            found.extend(all(&mut decoder, piece));
        }
        assert_eq!(found, [Item::Line(b"next".to_vec())]);
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\n'), any::<u8>()], 0..200), size in 1usize..20) {
            let whole = all(&mut Decoder::new(20), &bytes);
            let mut decoder = Decoder::new(20);
            let cut: Vec<Item> = bytes.chunks(size).flat_map(|c| all(&mut decoder, c)).collect();
            prop_assert_eq!(whole, cut);
        }
    }
}

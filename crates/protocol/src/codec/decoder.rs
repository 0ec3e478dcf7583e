/// The result of a [`Decoder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// One line, without its newline.
    Line(Vec<u8>),
    /// A line exceeded the limit. Its bytes are dropped up to the next newline.
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The bytes of the raw frame that [`Decoder::expect_raw`] announced.
    Raw(Vec<u8>),
}

#[derive(Debug)]
enum Mode {
    Line,
    /// Drops the rest of a line that exceeded the limit.
    DiscardLine,
    Raw {
        missing: usize,
    },
    SkipRaw {
        missing: u64,
    },
}

/// Splits bytes into lines and raw frames, and buffers no more than the limit.
///
/// The limit applies before memory is used: a line is rejected at the first byte past the limit, and
/// the rest up to the next newline is dropped without being buffered.
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

/// The maximum capacity of the buffer between items, in bytes. A buffer that grew further for one long
/// line is freed after that line.
const MAX_IDLE_CAPACITY: usize = 64 * 1024;

impl Decoder {
    /// Creates a decoder that rejects lines longer than `limit` bytes, without the newline.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            mode: Mode::Line,
            buffer: Vec::new(),
            limit,
        }
    }

    /// Changes the limit, in bytes, from the next line on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes the next item out of `input`, or consumes all of `input` if that completes no item.
    ///
    /// Call it until it returns `None`; `input` is empty then.
    pub fn decode(&mut self, input: &mut &[u8]) -> Option<Item> {
        while !input.is_empty() {
            let item = match self.mode {
                Mode::Line => self.read_line(input),
                Mode::DiscardLine => {
                    self.discard_line(input);
                    None
                }
                Mode::Raw { missing } => self.read_raw(missing, input),
                Mode::SkipRaw { missing } => {
                    self.skip(missing, input);
                    None
                }
            };

            if item.is_some() {
                return item;
            }
        }

        None
    }

    /// Reads the next `len` bytes as a raw frame. Call it right after the line that announced the frame.
    ///
    /// The caller must check `len` against its own limit first. A frame of 0 bytes yields no item.
    pub fn expect_raw(&mut self, len: usize) {
        debug_assert!(self.buffer.is_empty(), "a frame follows a complete line");
        if len > 0 {
            self.mode = Mode::Raw { missing: len };
        }
    }

    /// Drops the next `len` bytes, a raw frame without a receiver. They yield no item.
    pub fn skip_raw(&mut self, len: u64) {
        debug_assert!(self.buffer.is_empty(), "a frame follows a complete line");
        if len > 0 {
            self.mode = Mode::SkipRaw { missing: len };
        }
    }

    /// Returns the number of bytes that are buffered for an incomplete item.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    fn read_line(&mut self, input: &mut &[u8]) -> Option<Item> {
        let end = find_newline(input);
        let part = &input[..end.unwrap_or(input.len())];

        // The limit is checked before anything is buffered.
        let too_long = self.buffer.len() + part.len() > self.limit;
        if too_long {
            self.buffer = Vec::new();
            self.mode = if end.is_some() {
                Mode::Line
            } else {
                Mode::DiscardLine
            };
        } else {
            self.buffer.extend_from_slice(part);
        }

        *input = end.map_or(&[], |at| &input[at + 1..]);

        if too_long {
            return Some(Item::TooLong { limit: self.limit });
        }

        end.map(|_| Item::Line(self.take_buffer()))
    }

    fn discard_line(&mut self, input: &mut &[u8]) {
        if let Some(at) = find_newline(input) {
            *input = &input[at + 1..];
            self.mode = Mode::Line;
        } else {
            *input = &[];
        }
    }

    fn read_raw(&mut self, missing: usize, input: &mut &[u8]) -> Option<Item> {
        let (now, rest) = input.split_at(missing.min(input.len()));
        self.buffer.extend_from_slice(now);
        *input = rest;

        let missing = missing - now.len();
        if missing > 0 {
            self.mode = Mode::Raw { missing };
            return None;
        }

        self.mode = Mode::Line;
        Some(Item::Raw(self.take_buffer()))
    }

    fn skip(&mut self, missing: u64, input: &mut &[u8]) {
        let now = missing.min(input.len() as u64);
        *input = &input[usize::try_from(now).unwrap_or(input.len())..];
        self.mode = match missing - now {
            0 => Mode::Line,
            missing => Mode::SkipRaw { missing },
        };
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        let next = Vec::with_capacity(self.buffer.len().min(MAX_IDLE_CAPACITY));
        std::mem::replace(&mut self.buffer, next)
    }
}

fn find_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&b| b == b'\n')
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
    fn an_endless_line_uses_no_memory_past_the_limit() {
        let mut decoder = Decoder::new(1024);
        let mut rejected = 0;
        for _ in 0..1000 {
            rejected += all(&mut decoder, &[b'x'; 1000]).len();
            assert!(decoder.buffered() <= 1024);
        }

        assert_eq!(rejected, 1);
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
    fn a_frame_without_a_receiver_is_skipped() {
        let mut decoder = Decoder::new(100);
        decoder.skip_raw(5);

        let mut items = Vec::new();
        for piece in [&b"a\nb"[..], b"c\nnext\n"] {
            items.extend(all(&mut decoder, piece));
        }

        assert_eq!(items, [Item::Line(b"next".to_vec())]);
    }

    proptest! {
        #[test]
        fn the_chunking_of_the_input_makes_no_difference(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\n'), any::<u8>()], 0..200), size in 1usize..20) {
            let whole = all(&mut Decoder::new(20), &bytes);
            let mut decoder = Decoder::new(20);
            let cut: Vec<Item> = bytes.chunks(size).flat_map(|c| all(&mut decoder, c)).collect();
            prop_assert_eq!(whole, cut);
        }
    }
}

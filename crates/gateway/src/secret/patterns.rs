//! Finds the forms of values in a text, in a time that does not depend on the values.
//!
//! Each form is known by its length and by a hash of it. Each byte of a text costs the same work, whether it resembles a
//! value or not. A comparison with the values themselves would take longer the more of a value a text contains.

use std::hash::{BuildHasher as _, RandomState};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// The modulus of the hashes, a prime: two texts of `n` bytes have the same hash with a probability of `n` in 2^61.
const MODULUS: u64 = (1 << 61) - 1;

/// The possible numbers of bytes that are held back of a stream. The length of the longest form is rounded up to one of
/// them, so that the number reveals little about the length. The last is that of the longest form of the longest value.
const HELD_BYTES: [usize; 4] = [256, 1024, 4096, 16 * 1024];

/// The forms that are searched.
pub(super) struct Patterns {
    /// The random base of the hashes.
    base: u64,
    lengths: Vec<PatternLength>,
    held_bytes: usize,
}

/// All forms of one length.
struct PatternLength {
    length: usize,
    hashes: Vec<u64>,
    /// What each byte adds to the hash that it is about to leave, negated.
    removals: [u64; 256],
}

/// The state of a search: the hash of the last bytes for each length.
#[derive(Clone)]
pub(super) struct Search {
    hashes: Vec<u64>,
    /// The number of bytes since the last one that no value contains.
    run: usize,
}

impl Patterns {
    /// Creates the patterns for these texts.
    pub(super) fn new(texts: &[Zeroizing<Vec<u8>>]) -> Self {
        let base = 256 + RandomState::new().hash_one(0) % (MODULUS - 256);
        let mut patterns = Self {
            base,
            lengths: Vec::new(),
            held_bytes: HELD_BYTES[0],
        };
        for text in texts {
            patterns.add(text);
        }
        patterns
    }

    fn add(&mut self, text: &[u8]) {
        let hash = text
            .iter()
            .fold(0, |hash, &byte| multiply_add(hash, self.base, byte.into()));
        match self.lengths.iter_mut().find(|l| l.length == text.len()) {
            Some(length) => length.hashes.push(hash),
            None => self.lengths.push(PatternLength {
                length: text.len(),
                hashes: vec![hash],
                removals: removals(self.base, text.len()),
            }),
        }

        let fitting = HELD_BYTES.into_iter().find(|&bytes| bytes >= text.len());
        self.held_bytes = self.held_bytes.max(fitting.unwrap_or(text.len()));
    }

    /// Returns how many of the last bytes of a text must be kept, because a form may start in them.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(super) fn search(&self) -> Search {
        Search {
            hashes: vec![0; self.lengths.len()],
            run: 0,
        }
    }
}

impl Search {
    /// Takes the byte at `index` of `text`; returns the length of the longest form that ends there. The text contains at
    /// least the [`held_bytes`](Patterns::held_bytes) before the index.
    pub(super) fn push(&mut self, patterns: &Patterns, text: &[u8], index: usize) -> Option<usize> {
        let byte = text[index];
        if !can_be_in_value(byte) {
            self.hashes.fill(0);
            self.run = 0;
            return None;
        }

        let mut found = None;
        for (hash, of_length) in self.hashes.iter_mut().zip(&patterns.lengths) {
            let mut added = u64::from(byte);
            if self.run >= of_length.length {
                added += of_length.removals[usize::from(text[index - of_length.length])];
            }
            *hash = multiply_add(*hash, patterns.base, added);
            if self.run + 1 >= of_length.length && of_length.hashes.contains(hash) {
                found = found.max(Some(of_length.length));
            }
        }
        self.run += 1;
        found
    }

    /// Returns the number of bytes since the last one that no value contains.
    pub(super) fn run(&self) -> usize {
        self.run
    }
}

/// Returns whether any value, of any secret, may contain the byte.
pub(super) fn can_be_in_value(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// Returns `hash * base + added`. The sum of `hash` and `added` is below 2^62.
fn multiply_add(hash: u64, base: u64, added: u64) -> u64 {
    let product = u128::from(hash) * u128::from(base) + u128::from(added);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "both halves are below 2^62"
    )]
    let (low, high) = ((product as u64) & MODULUS, (product >> 61) as u64);
    (low + high) % MODULUS
}

/// Returns, for each byte, what must be added to a hash for a byte that is `length` bytes behind the next one.
fn removals(base: u64, length: usize) -> [u64; 256] {
    let power = (0..length).fold(1, |power, _| multiply_add(power, base, 0));
    let mut removals = [0; 256];
    for (byte, removal) in (0..).zip(&mut removals) {
        *removal = MODULUS - multiply_add(power, byte, 0);
    }
    removals
}

/// Returns the forms in which a value may come back: literally, and in base64 at each of the three offsets.
pub(super) fn encoded_forms(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![Zeroizing::new(value.to_vec())];
    for offset in 0..3 {
        let padded = Zeroizing::new([&[0; 2][..offset], value].concat());
        // Only characters that contain no bits of the value's neighbors.
        let (from, to) = ((offset * 8).div_ceil(6), padded.len() * 8 / 6);
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = Zeroizing::new(engine.encode(padded.as_slice()));
            let form = Zeroizing::new(encoded.as_bytes()[from..to].to_vec());
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    forms
}

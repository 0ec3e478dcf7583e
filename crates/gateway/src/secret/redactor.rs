//! Redacts values in the answers of a host, without changing their length.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::value::SecretText;

/// Finds the values that must not come back from one host, in all of their forms.
pub(crate) struct SecretMatcher {
    host: String,
    /// The forms of all values, the longest first.
    patterns: Vec<Pattern>,
    /// Whether a pattern starts with the byte of this index.
    first_bytes: [bool; 256],
}

struct Pattern {
    text: Zeroizing<Vec<u8>>,
    /// What replaces the text; it has the same length.
    mask: Vec<u8>,
}

impl fmt::Debug for SecretMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretMatcher({}, redacted)", self.host)
    }
}

impl SecretMatcher {
    /// Creates the matcher of one host from its values, each with its placeholder.
    pub(super) fn new<'a>(
        host: &str,
        pairs: impl Iterator<Item = (&'a SecretText, &'a str)>,
    ) -> Self {
        let mut texts = Vec::new();
        for (value, placeholder) in pairs {
            for form in encoded_forms(value.expose().as_bytes()) {
                texts.push((form, placeholder));
            }
        }
        // Where several forms match, the longest counts.
        texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));

        let edge = unused_byte(texts.iter().map(|(text, _)| text.as_slice()));
        let masks: Vec<_> = texts
            .iter()
            .map(|(text, placeholder)| mask(placeholder, text.len(), edge))
            .map(|mask| safe_mask(mask, edge, texts.iter().map(|(text, _)| text.as_slice())))
            .collect();
        let mut first_bytes = [false; 256];
        for (text, _) in &texts {
            first_bytes[usize::from(text[0])] = true;
        }

        let patterns = texts.into_iter().zip(masks);
        Self {
            host: host.to_owned(),
            patterns: patterns
                .map(|((text, _), mask)| Pattern { text, mask })
                .collect(),
            first_bytes,
        }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns `text` with the values redacted.
    pub(crate) fn redact(self: &Arc<Self>, text: &[u8]) -> Vec<u8> {
        let mut redactor = Redactor::new(Arc::clone(self));
        let mut redacted = redactor.push(text).to_vec();
        redacted.extend_from_slice(&redactor.finish());
        redacted
    }

    /// Redacts the values in a response's headers. A header whose name contains one is removed.
    pub(crate) fn redact_headers(self: &Arc<Self>, headers: &mut HeaderMap) {
        for value in headers.values_mut() {
            let redacted = self.redact(value.as_bytes());
            if redacted != value.as_bytes() {
                // Masks consist of characters that headers can carry, so the fallback is never used.
                *value = HeaderValue::from_bytes(&redacted)
                    .unwrap_or_else(|_| HeaderValue::from_static("redacted"));
            }
        }

        let matching_names: Vec<HeaderName> = headers
            .keys()
            .filter(|name| self.matches_ignoring_case(name.as_str().as_bytes()))
            .cloned()
            .collect();
        for name in matching_names {
            headers.remove(name);
        }
    }

    fn matches_ignoring_case(&self, name: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| {
            name.windows(pattern.text.len())
                .any(|window| window.eq_ignore_ascii_case(&pattern.text))
        })
    }

    /// Matches at the start of `rest`. `more` says whether further bytes may follow.
    fn match_start(&self, rest: &[u8], more: bool) -> Match<'_> {
        if !self.first_bytes[usize::from(rest[0])] {
            return Match::None;
        }
        for pattern in &self.patterns {
            if rest.starts_with(&pattern.text) {
                return Match::Full(&pattern.mask);
            }
            if more && pattern.text.starts_with(rest) {
                return Match::Partial;
            }
        }
        Match::None
    }
}

enum Match<'a> {
    None,
    /// The bytes may start a value; more are needed to decide.
    Partial,
    /// A value, with the mask that replaces it.
    Full(&'a [u8]),
}

/// Redacts values in a stream. It holds back only bytes that may start a value: fewer than one value has.
pub(crate) struct Redactor {
    matcher: Arc<SecretMatcher>,
    held: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({:?})", self.matcher)
    }
}

impl Redactor {
    /// Creates a redactor for one stream.
    pub(crate) fn new(matcher: Arc<SecretMatcher>) -> Self {
        Self {
            matcher,
            held: Zeroizing::default(),
        }
    }

    /// Returns the number of bytes that are held back.
    pub(crate) fn pending(&self) -> usize {
        self.held.len()
    }

    /// Takes a piece of the stream; returns what can be passed on.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Bytes {
        let text = Zeroizing::new([self.held.as_slice(), piece].concat());
        let (redacted, held) = self.scan(&text, true);
        self.held = Zeroizing::new(held.to_vec());
        redacted
    }

    /// Returns the bytes that were held back, at the end of the stream. They may contain a shorter value, which is
    /// redacted.
    pub(crate) fn finish(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.held);
        self.scan(&text, false).0
    }

    /// Redacts the text up to where a value may start; returns the rest as it is.
    fn scan<'a>(&self, text: &'a [u8], more: bool) -> (Bytes, &'a [u8]) {
        let mut redacted = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(&byte) = rest.first() {
            match self.matcher.match_start(rest, more) {
                Match::None => {
                    redacted.push(byte);
                    rest = &rest[1..];
                }
                Match::Full(mask) => {
                    redacted.extend_from_slice(mask);
                    rest = &rest[mask.len()..];
                }
                Match::Partial => break,
            }
        }
        (redacted.into(), rest)
    }
}

/// Returns the forms in which a value may come back: literally, and in base64 at each of the three offsets.
fn encoded_forms(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
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

/// Returns a byte that no pattern contains. A tab is in none.
fn unused_byte<'a>(patterns: impl Iterator<Item = &'a [u8]>) -> u8 {
    let mut is_used = [false; 256];
    for &byte in patterns.flatten() {
        is_used[usize::from(byte)] = true;
    }
    let candidates = (b'*'..=b'~').chain(b'!'..=b')');
    candidates
        .into_iter()
        .find(|&byte| !is_used[usize::from(byte)])
        .unwrap_or(b'\t')
}

/// Returns the placeholder, cut or padded to `length`. Its first and last byte are ones that no pattern contains, so that
/// no pattern can arise across its borders.
fn mask(placeholder: &str, length: usize, edge: u8) -> Vec<u8> {
    let mut mask = placeholder.as_bytes().to_vec();
    mask.resize(length, edge);
    mask[0] = edge;
    mask[length - 1] = edge;
    mask
}

/// Returns the mask, or a blank one if it contains a pattern.
fn safe_mask<'a>(mask: Vec<u8>, edge: u8, mut patterns: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let contains = |pattern: &[u8]| mask.windows(pattern.len()).any(|window| window == pattern);
    if patterns.any(contains) {
        return vec![edge; mask.len()];
    }
    mask
}

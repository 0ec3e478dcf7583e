//! Redacts values in the answers of a host.
//!
//! A guest that chooses what a host answers must learn nothing from the search. What is held back of a stream, what is
//! released, and the work for it are therefore the same for all values: they depend on the number of bytes, and on where
//! there are bytes that no value may contain. There is no timer, because a guest could make a host pause within a value.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::patterns::{Patterns, Search, encoded_forms};
use super::value::{MIN_VALUE_BYTES, SecretText};

/// Replaces a value of any length: a mask must not reveal the length. It is not longer than any form, so that bytes are
/// never held back for longer than necessary.
pub(super) const MASK: &[u8; MIN_VALUE_BYTES] = b"********";

/// Finds the values that must not come back from one host, in all of their forms.
pub(crate) struct SecretMatcher {
    host: String,
    patterns: Patterns,
    /// The forms in lowercase, as they would be in the name of a header.
    lowercase: Patterns,
}

impl fmt::Debug for SecretMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretMatcher({}, redacted)", self.host)
    }
}

impl SecretMatcher {
    /// Creates the matcher of one host from its values.
    pub(super) fn new<'a>(host: &str, values: impl Iterator<Item = &'a SecretText>) -> Self {
        let forms: Vec<_> = values
            .flat_map(|value| encoded_forms(value.expose().as_bytes()))
            .collect();
        let lowercase: Vec<_> = forms
            .iter()
            .map(|form| Zeroizing::new(form.to_ascii_lowercase()))
            .collect();
        Self {
            host: host.to_owned(),
            patterns: Patterns::new(&forms),
            lowercase: Patterns::new(&lowercase),
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
            .filter(|name| self.is_in_name(name.as_str().as_bytes()))
            .cloned()
            .collect();
        for name in matching_names {
            headers.remove(name);
        }
    }

    /// Returns whether a header's name, which is in lowercase, contains a value.
    fn is_in_name(&self, name: &[u8]) -> bool {
        let mut search = self.lowercase.search();
        (0..name.len()).any(|index| search.push(&self.lowercase, name, index).is_some())
    }
}

/// Redacts values in a stream.
///
/// It holds back the last [`held_bytes`](Patterns::held_bytes) of the output, or those since the last byte that no value
/// may contain, such as a line feed, if they are fewer.
pub(crate) struct Redactor {
    matcher: Arc<SecretMatcher>,
    search: Search,
    held: Zeroizing<Vec<u8>>,
    /// The values in `held`, in order and without overlaps.
    found: Vec<Range<usize>>,
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
            search: matcher.patterns.search(),
            matcher,
            held: Zeroizing::default(),
            found: Vec::new(),
        }
    }

    /// Returns whether bytes are held back.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes a piece of the stream; returns what can be passed on.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Bytes {
        let text = Zeroizing::new([self.held.as_slice(), piece].concat());
        for index in self.held.len()..text.len() {
            let found = self.search.push(&self.matcher.patterns, &text, index);
            if let Some(length) = found {
                self.add_found(index + 1 - length..index + 1);
            }
        }

        let (released, end) = self.release(&text);
        self.held = Zeroizing::new(text[end..].to_vec());
        self.found.retain(|range| range.start >= end);
        for range in &mut self.found {
            *range = range.start - end..range.end - end;
        }
        released
    }

    /// Returns the bytes that were held back, at the end of the stream. Afterwards another stream may start.
    pub(crate) fn finish(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.held);
        let mut released = Vec::with_capacity(text.len());
        append_redacted(&mut released, &text, 0..text.len(), &self.found);
        self.search = self.matcher.patterns.search();
        self.found.clear();
        released.into()
    }

    /// Adds a value that was found, and joins it with those that it overlaps.
    fn add_found(&mut self, mut range: Range<usize>) {
        while let Some(last) = self.found.pop_if(|last| last.end > range.start) {
            range.start = range.start.min(last.start);
        }
        self.found.push(range);
    }

    /// Returns the part of the output that can be released, and where it ends in the text.
    fn release(&self, text: &[u8]) -> (Bytes, usize) {
        // No value extends over the start of the run.
        let run_start = text.len() - self.search.run().min(text.len());
        let mut released = Vec::with_capacity(text.len());
        append_redacted(&mut released, text, 0..run_start, &self.found);

        // In the run, bytes are counted as the guest sees them: a value has the length of its mask.
        let found: Vec<_> = (self.found.iter().filter(|range| range.start >= run_start)).collect();
        let masked: usize = found.iter().map(|range| range.len() - MASK.len()).sum();
        let run_bytes = text.len() - run_start - masked;
        let mut excess = run_bytes.saturating_sub(self.matcher.patterns.held_bytes());

        let mut end = run_start;
        for range in found {
            let before = range.start - end;
            if excess < before + MASK.len() {
                break;
            }
            excess -= before + MASK.len();
            end = range.end;
        }
        let next_found = self.found.iter().find(|range| range.start >= end);
        let limit = next_found.map_or(text.len(), |range| range.start);
        end = limit.min(end + excess);

        append_redacted(&mut released, text, run_start..end, &self.found);
        (released.into(), end)
    }
}

/// Appends a part of a text in which each value that was found is replaced by the mask.
fn append_redacted(to: &mut Vec<u8>, text: &[u8], part: Range<usize>, found: &[Range<usize>]) {
    let mut start = part.start;
    for range in found {
        if range.start >= start && range.end <= part.end {
            to.extend_from_slice(&text[start..range.start]);
            to.extend_from_slice(MASK);
            start = range.end;
        }
    }
    to.extend_from_slice(&text[start..part.end]);
}

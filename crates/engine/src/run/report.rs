//! The bounded output of runs that one JSON object contains, as in `fumehood run --json` and the HTTP API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;

use super::mime_bundle::MimeBundle;

/// Maximum output stored of each stream, and of values, in bytes: the part that one JSON object may contain.
pub const KEPT_BYTES: usize = 10 * 1024 * 1024;

/// The output of one stream. The first [`KEPT_BYTES`] are stored, the rest is counted.
#[derive(Debug, Clone, Default)]
pub struct CapturedOutput {
    stored: Vec<u8>,
    total: u64,
}

impl CapturedOutput {
    /// Appends output: stores it up to the maximum, and counts the rest.
    pub fn add(&mut self, bytes: &[u8]) {
        // The stored output has no gaps.
        let is_whole = !self.truncated();
        let free = if is_whole {
            KEPT_BYTES - self.stored.len()
        } else {
            0
        };
        self.stored
            .extend_from_slice(&bytes[..bytes.len().min(free)]);
        self.total += bytes.len() as u64;
    }

    /// Counts output without storing it, or what follows it.
    pub fn skip(&mut self, bytes: usize) {
        self.total += bytes as u64;
    }

    /// Releases memory that only further output would need.
    pub fn shrink(&mut self) {
        self.stored.shrink_to_fit();
    }

    /// Returns the stored output as text with `utf-8`, or as base64 with `base64` if it is not valid UTF-8.
    #[must_use]
    pub fn encoded(&self) -> (String, &'static str) {
        match std::str::from_utf8(&self.stored) {
            Ok(text) => (text.to_owned(), "utf-8"),
            Err(_) => (STANDARD.encode(&self.stored), "base64"),
        }
    }

    /// Returns the stored output.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.stored
    }

    /// Returns the number of bytes received, stored or not.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns whether more was received than is stored.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.total > self.stored.len() as u64
    }
}

/// Overhead of a value besides its JSON, in bytes: a program may display millions of small ones.
const VALUE_COST: usize = 256;

/// The values that a program displays. Up to [`KEPT_BYTES`] of JSON are stored, the rest is counted.
#[derive(Debug, Clone, Default)]
pub struct DisplayedValues {
    /// As text: a parsed value may take many times as much memory.
    stored: Vec<Box<RawValue>>,
    bytes: usize,
    total: u64,
}

impl DisplayedValues {
    /// Adds a value: stores it up to the maximum, or only counts it.
    pub fn add(&mut self, value: &MimeBundle) {
        self.total += 1;
        let Ok(value) = serde_json::value::to_raw_value(value) else {
            return;
        };

        let bytes = value.get().len() + VALUE_COST;
        if self.bytes + bytes <= KEPT_BYTES {
            self.bytes += bytes;
            self.stored.push(value);
        }
    }

    /// Counts a value without storing it.
    pub fn skip(&mut self) {
        self.total += 1;
    }

    /// Returns the stored values.
    #[must_use]
    pub fn values(&self) -> Vec<Value> {
        let values = self.stored.iter();
        values
            .map(|value| serde_json::from_str(value.get()).unwrap_or_default())
            .collect()
    }

    /// Returns the JSON of a stored value, by its position.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        self.stored.get(index).map(|value| value.get())
    }

    /// Returns the number of values that are stored.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stored.len()
    }

    /// Returns whether no value is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// Returns the bytes stored, with the overhead of each value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of values received, stored or not.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns whether more was received than is stored.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.total > self.stored.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_past_the_limit_is_counted() {
        let mut captured = CapturedOutput::default();
        captured.add(&vec![b'x'; KEPT_BYTES]);
        assert!(!captured.truncated());
        captured.add(b"y");
        assert!(captured.truncated());
        assert_eq!(
            (captured.stored.len(), captured.total),
            (KEPT_BYTES, KEPT_BYTES as u64 + 1)
        );
    }

    #[test]
    fn binary_output_is_base64() {
        let mut captured = CapturedOutput::default();
        captured.add(&[0xff]);
        assert_eq!(captured.encoded(), ("/w==".to_string(), "base64"));
    }
}

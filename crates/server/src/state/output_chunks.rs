//! The output of a run as JSON chunks: text where it is UTF-8, base64 where it is not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// The longest incomplete character at the end of a chunk, in bytes.
const MAX_CARRY_BYTES: usize = 3;

/// Splits one stream of output into chunks, and never splits a UTF-8 character.
#[derive(Debug, Default)]
pub(crate) struct Utf8Chunker {
    carry: Vec<u8>,
}

impl Utf8Chunker {
    /// Takes the next bytes, and returns the chunk that can be sent now as JSON.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<String> {
        let joined;
        let bytes = if self.carry.is_empty() {
            bytes
        } else {
            joined = [&self.carry, bytes].concat();
            self.carry.clear();
            &joined
        };

        let end = match std::str::from_utf8(bytes) {
            Ok(_) => bytes.len(),
            // The last character is incomplete: its rest arrives with the next bytes.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => bytes.len(),
        };

        debug_assert!(bytes.len() - end <= MAX_CARRY_BYTES);
        self.carry.extend_from_slice(&bytes[end..]);

        (end > 0).then(|| encode_chunk(&bytes[..end]))
    }

    /// Returns the bytes that are left at the end of the stream.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let carry = std::mem::take(&mut self.carry);
        (!carry.is_empty()).then(|| encode_chunk(&carry))
    }
}

fn encode_chunk(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_whole_and_bytes_are_exact() {
        let mut chunker = Utf8Chunker::default();
        assert_eq!(chunker.push("aé".as_bytes()).unwrap(), r#"{"text":"aé"}"#);

        let euro = "€".as_bytes();
        assert_eq!(chunker.push(&euro[..1]), None);
        assert_eq!(chunker.push(&euro[1..2]), None);
        assert_eq!(chunker.push(&euro[2..]).unwrap(), r#"{"text":"€"}"#);

        assert_eq!(chunker.push(b"x\xff").unwrap(), r#"{"base64":"eP8="}"#);
        assert_eq!(chunker.push(&euro[..2]), None);
        assert_eq!(chunker.finish().unwrap(), r#"{"base64":"4oI="}"#);
        assert_eq!(chunker.finish(), None);
    }
}

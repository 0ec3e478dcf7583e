//! Events of a run as JSON. Output is cut at characters' borders where it is text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// The most bytes that a character which has begun may leave for the next piece.
const CARRY_BYTES: usize = 3;

/// One stream of output.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    carry: Vec<u8>,
}

impl Pieces {
    /// What can be told after these bytes have come.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Option<String> {
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
            // A character goes on in what comes next.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => bytes.len(),
        };
        debug_assert!(bytes.len() - end <= CARRY_BYTES);
        self.carry.extend_from_slice(&bytes[end..]);
        (end > 0).then(|| piece(&bytes[..end]))
    }

    /// What was left, when nothing comes any more.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let carry = std::mem::take(&mut self.carry);
        (!carry.is_empty()).then(|| piece(&carry))
    }
}

fn piece(bytes: &[u8]) -> String {
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
        let mut pieces = Pieces::default();
        assert_eq!(pieces.take("aé".as_bytes()).unwrap(), r#"{"text":"aé"}"#);
        let euro = "€".as_bytes();
        assert_eq!(pieces.take(&euro[..1]), None);
        assert_eq!(pieces.take(&euro[1..2]), None);
        assert_eq!(pieces.take(&euro[2..]).unwrap(), r#"{"text":"€"}"#);
        assert_eq!(pieces.take(b"x\xff").unwrap(), r#"{"base64":"eP8="}"#);
        assert_eq!(pieces.take(&euro[..2]), None);
        assert_eq!(pieces.finish().unwrap(), r#"{"base64":"4oI="}"#);
        assert_eq!(pieces.finish(), None);
    }
}

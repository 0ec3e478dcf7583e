/// Splits a stream of bytes into chunks without splitting a multi-byte character.
///
/// Up to three bytes of an incomplete character are held back until the rest arrives or
/// [`finish`](Self::finish) is called. Bytes that can never become a character pass immediately.
#[derive(Debug, Default)]
pub struct Utf8Splitter {
    pending: Vec<u8>,
}

impl Utf8Splitter {
    /// Adds `bytes` and returns everything that can be sent now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(bytes);
        let cut = all.len() - incomplete_tail(&all);
        self.pending = all.split_off(cut);
        all
    }

    /// Ends the stream and returns the bytes that were held back.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    /// Returns the number of bytes that are held back: 0 to 3.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

/// Returns the length of an incomplete character at the end of `bytes`; 0 if there is none.
fn incomplete_tail(bytes: &[u8]) -> usize {
    // An incomplete character has at most three bytes.
    let from = bytes.len().saturating_sub(3);
    for start in from..bytes.len() {
        if let Err(error) = std::str::from_utf8(&bytes[start..])
            && error.valid_up_to() == 0
            && error.error_len().is_none()
        {
            return bytes.len() - start;
        }
    }

    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_incomplete_character_is_held_back() {
        let mut splitter = Utf8Splitter::default();
        assert_eq!(splitter.push(&[b'a', 0xc3]), b"a");
        assert_eq!(splitter.pending(), 1);
        assert_eq!(splitter.push(&[0xa9]), "é".as_bytes());
    }

    #[test]
    fn an_invalid_byte_passes_immediately() {
        let mut splitter = Utf8Splitter::default();
        assert_eq!(splitter.push(&[0xff]), [0xff]);
        assert!(splitter.finish().is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_changed(pieces: Vec<Vec<u8>>) {
            let mut splitter = Utf8Splitter::default();
            let mut out = Vec::new();
            for piece in &pieces {
                out.extend(splitter.push(piece));
                prop_assert!(splitter.pending() <= 3);
            }

            out.extend(splitter.finish());
            prop_assert_eq!(out, pieces.concat());
        }

        #[test]
        fn valid_text_is_never_split(text: String, cuts: Vec<proptest::sample::Index>) {
            let mut splitter = Utf8Splitter::default();
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(text.len());

            let mut from = 0;
            for to in cuts {
                let piece = splitter.push(&text.as_bytes()[from..to]);
                prop_assert!(std::str::from_utf8(&piece).is_ok());
                from = to;
            }

            prop_assert_eq!(splitter.pending(), 0);
        }
    }
}

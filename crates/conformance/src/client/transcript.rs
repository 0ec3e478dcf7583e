//! The lines that were sent and received, bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Lines that are kept: the latest.
const LINES: usize = 40;
/// Characters that are kept of one line.
const LINE_CHARS: usize = 240;

/// The latest lines of the connections of one check.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Transcript {
    /// Notes bytes that were sent (`>`) or received (`<`).
    pub(crate) fn note(&self, connection: u32, mark: char, bytes: &[u8]) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(format!("{connection} {mark} {}", shorten(bytes)));
    }

    /// The lines that were kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

/// The beginning of some bytes, without control characters, and how many there are if some are missing.
pub(crate) fn shorten(bytes: &[u8]) -> String {
    let end = bytes.len().min(LINE_CHARS * 4);
    let text = String::from_utf8_lossy(&bytes[..end]);
    let text = text.trim_end_matches(['\n', '\r']);

    let mut shown = String::new();
    for character in text.chars().take(LINE_CHARS) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.chars().count() > LINE_CHARS || end < bytes.len() {
        shown += &format!("… ({} bytes)", bytes.len());
    }

    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_bounded() {
        let transcript = Transcript::default();
        for number in 0..1000 {
            transcript.note(1, '>', format!("{number}\n").as_bytes());
        }
        transcript.note(2, '<', &[b'x'; 1_000_000]);

        let lines = transcript.lines();
        assert_eq!(lines.len(), LINES);
        assert!(lines[0].starts_with("1 > 961"), "{}", lines[0]);
        assert!(lines[LINES - 1].len() < 300, "{}", lines[LINES - 1]);
        assert!(lines[LINES - 1].ends_with("(1000000 bytes)"));
    }
}

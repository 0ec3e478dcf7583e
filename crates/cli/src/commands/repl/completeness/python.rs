//! Python inputs.

use super::strings::end_of_string;

#[derive(Debug, Default)]
pub(crate) struct PythonLexer {
    /// The number of open brackets.
    depth: usize,
    /// The quote of an open triple-quoted string.
    triple_quote: Option<u8>,
    /// Whether the last line ends in a backslash.
    continues: bool,
    /// Whether a block or a decorator was started, which an empty line ends.
    has_block: bool,
    /// Whether the last line is blank.
    is_blank: bool,
}

impl PythonLexer {
    pub(super) fn add_line(&mut self, line: &[u8]) {
        let is_new_statement = self.depth == 0 && self.triple_quote.is_none() && !self.continues;
        let is_decorator = line.trim_ascii_start().first() == Some(&b'@');
        self.has_block |= is_new_statement && is_decorator;
        self.is_blank = line.trim_ascii().is_empty();
        self.continues = false;

        // The last byte that belongs neither to space nor to a comment.
        let mut last = b' ';
        let mut at = 0;
        while at < line.len() {
            if let Some(quote) = self.triple_quote {
                at = self.skip_triple_quoted(line, at, quote);
                last = quote;
                continue;
            }

            let byte = line[at];
            at += 1;
            match byte {
                b'#' => break,
                b'\'' | b'"' if line[at..].starts_with(&[byte, byte]) => {
                    self.triple_quote = Some(byte);
                    at += 2;
                }
                b'\'' | b'"' => at = end_of_string(line, at, byte),
                b'(' | b'[' | b'{' => self.depth += 1,
                b')' | b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                b'\\' => self.continues = at == line.len(),
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                last = byte;
            }
        }

        // A colon at the end of a line starts a block.
        self.has_block |= self.depth == 0 && self.triple_quote.is_none() && last == b':';
    }

    /// Skips the content of a triple-quoted string. Returns the position after the string, or the end of the line.
    fn skip_triple_quoted(&mut self, line: &[u8], start: usize, quote: u8) -> usize {
        let mut at = start;
        while at < line.len() {
            if line[at] == b'\\' {
                at += 2;
            } else if line[at..].starts_with(&[quote; 3]) {
                self.triple_quote = None;
                return at + 3;
            } else {
                at += 1;
            }
        }
        line.len()
    }

    pub(super) fn is_complete(&self) -> bool {
        let is_open = self.depth > 0 || self.triple_quote.is_some() || self.continues;
        !is_open && (!self.has_block || self.is_blank)
    }
}

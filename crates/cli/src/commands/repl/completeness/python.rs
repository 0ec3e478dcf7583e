use super::end_of_string;

#[derive(Debug, Default)]
pub(crate) struct Python {
    /// Brackets that are open.
    depth: usize,
    /// The quote of the long string that is open.
    long: Option<u8>,
    /// The line goes on in the next one.
    continues: bool,
    /// A block was begun, or a decorator waits for what it is for.
    has_block: bool,
    /// The last line is empty.
    is_blank: bool,
}

impl Python {
    pub(super) fn line(&mut self, line: &[u8]) {
        self.is_blank = line.trim_ascii().is_empty();
        let is_new = self.depth == 0 && self.long.is_none() && !self.continues;
        self.has_block |= is_new && line.trim_ascii_start().first() == Some(&b'@');
        self.continues = false;
        // The last that is neither space nor comment.
        let mut last = b' ';
        let mut at = 0;
        while at < line.len() {
            if let Some(quote) = self.long {
                at = self.end_of_long(line, at, quote);
                last = quote;
                continue;
            }
            let byte = line[at];
            at += 1;
            match byte {
                b'#' => break,
                b'\'' | b'"' if line[at..].starts_with(&[byte, byte]) => {
                    self.long = Some(byte);
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
        self.has_block |= self.depth == 0 && self.long.is_none() && last == b':';
    }

    fn end_of_long(&mut self, line: &[u8], from: usize, quote: u8) -> usize {
        let mut at = from;
        while at < line.len() {
            if line[at] == b'\\' {
                at += 2;
            } else if line[at..].starts_with(&[quote; 3]) {
                self.long = None;
                return at + 3;
            } else {
                at += 1;
            }
        }
        line.len()
    }

    pub(super) fn is_complete(&self) -> bool {
        let is_open = self.depth > 0 || self.long.is_some() || self.continues;
        !is_open && (!self.has_block || self.is_blank)
    }
}

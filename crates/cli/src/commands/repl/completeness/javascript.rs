//! JavaScript inputs.

use super::strings::end_of_string;

/// Bytes after which a `/` starts a regular expression instead of dividing.
const BEFORE_REGEX: &[u8] = b"(,=:[!&|?{};+-*%<>~^";

#[derive(Debug, Default)]
pub(crate) struct JavascriptLexer {
    /// Open brackets; a grave accent for a template literal, a `$` for an expression in one.
    open: Vec<u8>,
    in_comment: bool,
}

impl JavascriptLexer {
    pub(super) fn add_line(&mut self, line: &[u8]) {
        // The last byte that belongs neither to space nor to a comment.
        let mut last = b';';
        let mut at = 0;

        while at < line.len() {
            let rest = &line[at..];
            if self.in_comment {
                let end = rest.windows(2).position(|two| two == b"*/");
                self.in_comment = end.is_none();
                at = end.map_or(line.len(), |end| at + end + 2);
                continue;
            }
            if self.open.last() == Some(&b'`') {
                at += self.skip_template_text(rest);
                last = b'`';
                continue;
            }

            let byte = rest[0];
            at += 1;
            match byte {
                b'/' if rest.starts_with(b"//") => return,
                b'/' if rest.starts_with(b"/*") => {
                    self.in_comment = true;
                    at += 1;
                }
                b'/' if BEFORE_REGEX.contains(&last) => at = end_of_regex(line, at),
                b'\'' | b'"' => at = end_of_string(line, at, byte),
                b'(' | b'[' | b'{' | b'`' => self.open.push(byte),
                b')' | b']' | b'}' => {
                    self.open.pop();
                }
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                last = byte;
            }
        }
    }

    /// Skips the text of a template literal, up to its end or an expression in it. Returns the number of bytes.
    fn skip_template_text(&mut self, text: &[u8]) -> usize {
        let mut at = 0;
        while at < text.len() {
            match text[at] {
                b'\\' => at += 1,
                b'`' => {
                    self.open.pop();
                    return at + 1;
                }
                b'$' if text[at..].starts_with(b"${") => {
                    self.open.push(b'$');
                    return at + 2;
                }
                _ => {}
            }
            at += 1;
        }
        text.len()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.open.is_empty() && !self.in_comment
    }
}

/// Returns the position after a regular expression whose content starts at `start`.
fn end_of_regex(line: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut in_class = false;
    while at < line.len() {
        match line[at] {
            b'\\' => at += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'/' if !in_class => return at + 1,
            _ => {}
        }
        at += 1;
    }
    line.len()
}

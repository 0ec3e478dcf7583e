use super::end_of_string;

#[derive(Debug, Default)]
pub(crate) struct Javascript {
    /// Brackets that are open; a grave accent for a template, a `$` for what is inserted into one.
    open: Vec<u8>,
    in_comment: bool,
}

/// What a `/` after it divides nothing.
const BEFORE_A_PATTERN: &[u8] = b"(,=:[!&|?{};+-*%<>~^";

impl Javascript {
    pub(super) fn line(&mut self, line: &[u8]) {
        let mut at = 0;
        // The last that is neither space nor comment.
        let mut last = b';';
        while at < line.len() {
            let rest = &line[at..];
            if self.in_comment {
                let end = rest.windows(2).position(|two| two == b"*/");
                self.in_comment = end.is_none();
                at = end.map_or(line.len(), |end| at + end + 2);
                continue;
            }
            if self.open.last() == Some(&b'`') {
                at += self.template(rest);
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
                b'/' if BEFORE_A_PATTERN.contains(&last) => at = end_of_pattern(line, at),
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

    /// How far the text of a template goes.
    fn template(&mut self, text: &[u8]) -> usize {
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

/// Where a regular expression ends that begins after `from`.
fn end_of_pattern(line: &[u8], from: usize) -> usize {
    let mut at = from;
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

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(crate) struct Shell {
    /// Quotes and brackets that are open.
    open: Vec<u8>,
    /// `if`, `for`, `case`, `{` and the like that are open.
    blocks: usize,
    /// Here-documents that are to come: the word that ends each, and whether tabs before it count as nothing.
    documents: VecDeque<(Vec<u8>, bool)>,
    /// The line goes on in the next one.
    continues: bool,
}

const OPENING: [&[u8]; 7] = [b"if", b"case", b"for", b"while", b"until", b"select", b"{"];
const CLOSING: [&[u8]; 4] = [b"fi", b"esac", b"done", b"}"];
/// What a command follows.
const LEADING: [&[u8]; 5] = [b"then", b"do", b"else", b"elif", b"!"];

/// What ends a word.
const ENDS_A_WORD: &[u8] = b" \t;&|()<>'\"`$\\";

impl Shell {
    pub(super) fn line(&mut self, line: &[u8]) {
        if let Some((word, strips)) = self.documents.front() {
            let tabs = line.iter().take_while(|byte| **byte == b'\t').count();
            if line[if *strips { tabs } else { 0 }..] == word[..] {
                self.documents.pop_front();
            }
            return;
        }
        let was_continued = std::mem::take(&mut self.continues);
        let mut at = 0;
        // A command begins here, whose first word may be one of the language's own.
        let mut is_command = !was_continued;
        while at < line.len() {
            at = match self.open.last() {
                Some(&b'\'') => self.quoted(line, at),
                Some(&b'"') => self.double_quoted(line, at),
                Some(&b'$') => self.braced(line, at),
                _ => self.code(line, at, &mut is_command),
            };
        }
        let text = line.trim_ascii_end();
        let joins = text.ends_with(b"|") || text.ends_with(b"&&");
        self.continues |= joins && !self.is_quoted();
    }

    fn is_quoted(&self) -> bool {
        matches!(self.open.last(), Some(b'\'' | b'"'))
    }

    fn quoted(&mut self, line: &[u8], at: usize) -> usize {
        if line[at] == b'\'' {
            self.open.pop();
        }
        at + 1
    }

    fn double_quoted(&mut self, line: &[u8], at: usize) -> usize {
        match line[at] {
            b'\\' => return at + 2,
            b'"' => {
                self.open.pop();
            }
            b'$' => return self.dollar(line, at),
            _ => {}
        }
        at + 1
    }

    /// Within `${…}`.
    fn braced(&mut self, line: &[u8], at: usize) -> usize {
        match line[at] {
            b'\\' => return at + 2,
            b'}' => {
                self.open.pop();
            }
            byte @ (b'\'' | b'"') => self.open.push(byte),
            b'$' => return self.dollar(line, at),
            _ => {}
        }
        at + 1
    }

    fn dollar(&mut self, line: &[u8], at: usize) -> usize {
        let rest = &line[at..];
        if rest.starts_with(b"$((") {
            return at + 1 + arithmetic(&rest[1..]);
        }
        match rest.get(1) {
            Some(b'(') => self.open.push(b'('),
            Some(b'{') => self.open.push(b'$'),
            Some(b'#' | b'\'' | b'"') if self.open.last() != Some(&b'"') => {
                if rest[1] != b'#' {
                    self.open.push(rest[1]);
                }
            }
            _ => return at + 1,
        }
        at + 2
    }

    fn code(&mut self, line: &[u8], at: usize, is_command: &mut bool) -> usize {
        let rest = &line[at..];
        let byte = rest[0];
        let was_command = std::mem::replace(is_command, false);
        match byte {
            b'\\' => {
                self.continues = rest.len() == 1;
                return at + 2;
            }
            b'\'' | b'"' => self.open.push(byte),
            b'`' => match self.open.last() {
                Some(b'`') => drop(self.open.pop()),
                _ => self.open.push(byte),
            },
            b'$' => return self.dollar(line, at),
            b'#' if at == 0 || b" \t;&|(".contains(&line[at - 1]) => return line.len(),
            b'<' if rest.starts_with(b"<<") => return at + self.redirection(rest),
            b'(' if rest.starts_with(b"((") => return at + arithmetic(rest),
            b'(' => {
                self.open.push(byte);
                *is_command = true;
            }
            b')' => {
                // Of a pattern of `case`, which opens none.
                if self.open.last() == Some(&b'(') {
                    self.open.pop();
                }
                *is_command = true;
            }
            b';' | b'&' | b'|' => *is_command = true,
            b' ' | b'\t' => *is_command = was_command,
            _ => return at + self.word(rest, was_command, is_command),
        }
        at + 1
    }

    /// Takes a word; returns its length.
    fn word(&mut self, rest: &[u8], was_command: bool, is_command: &mut bool) -> usize {
        let end = rest.iter().position(|byte| ENDS_A_WORD.contains(byte));
        let len = end.unwrap_or(rest.len()).max(1);
        let word = &rest[..len];
        if was_command {
            self.blocks += usize::from(OPENING.contains(&word));
            self.blocks -= usize::from(self.blocks > 0 && CLOSING.contains(&word));
            let leads = [b"if" as &[u8], b"while", b"until", b"{"].contains(&word);
            *is_command = leads || LEADING.contains(&word);
        }
        len
    }

    /// `<<WORD`, `<<-WORD` and `<<<`; returns the length.
    fn redirection(&mut self, rest: &[u8]) -> usize {
        if rest.starts_with(b"<<<") {
            return 3;
        }
        let strips = rest.get(2) == Some(&b'-');
        let from = if strips { 3 } else { 2 };
        let blanks = rest[from..]
            .iter()
            .take_while(|byte| **byte == b' ')
            .count();
        let from = from + blanks;
        let end = rest[from..]
            .iter()
            .position(|byte| b" \t;&|()<>".contains(byte));
        let len = end.unwrap_or(rest.len() - from);
        let word = &rest[from..from + len];
        let plain = word.iter().copied().filter(|byte| !b"'\"\\".contains(byte));
        self.documents.push_back((plain.collect(), strips));
        from + len
    }

    pub(super) fn is_complete(&self) -> bool {
        let is_open = !self.open.is_empty() || self.blocks > 0 || !self.documents.is_empty();
        !is_open && !self.continues
    }
}

/// How far `((…))` goes.
fn arithmetic(text: &[u8]) -> usize {
    let end = text.windows(2).position(|two| two == b"))");
    end.map_or(text.len(), |end| end + 2)
}

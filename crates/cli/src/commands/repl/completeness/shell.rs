//! Shell inputs.

use std::collections::VecDeque;

/// Words that start a compound command.
const OPENING_WORDS: [&[u8]; 7] = [b"if", b"case", b"for", b"while", b"until", b"select", b"{"];
/// Words that end a compound command.
const CLOSING_WORDS: [&[u8]; 4] = [b"fi", b"esac", b"done", b"}"];
/// Words that a command may follow, and that start no compound command.
const LEADING_WORDS: [&[u8]; 5] = [b"then", b"do", b"else", b"elif", b"!"];

/// Bytes that end a word.
const WORD_DELIMITERS: &[u8] = b" \t;&|()<>'\"`$\\";

/// An open `case`, whose patterns have closing brackets without opening ones.
const CASE: u8 = b'c';

#[derive(Debug, Default)]
pub(crate) struct ShellLexer {
    /// Open quotes and brackets; a `$` for `${`, [`CASE`] for `case`.
    open: Vec<u8>,
    /// The number of open compound commands, such as `if`, `for`, `case` and `{`.
    blocks: usize,
    /// Here-documents whose content follows.
    here_documents: VecDeque<HereDocument>,
    /// Whether the last line continues on the next one.
    continues: bool,
}

#[derive(Debug)]
struct HereDocument {
    /// The line that ends it.
    delimiter: Vec<u8>,
    /// Whether leading tabs are removed (`<<-`).
    strips_tabs: bool,
}

impl ShellLexer {
    pub(super) fn add_line(&mut self, line: &[u8]) {
        // A line of a here-document is content or ends it.
        if let Some(document) = self.here_documents.front() {
            let tabs = line.iter().take_while(|byte| **byte == b'\t').count();
            let stripped = if document.strips_tabs { tabs } else { 0 };
            if line[stripped..] == document.delimiter[..] {
                self.here_documents.pop_front();
            }
            return;
        }

        let was_continued = std::mem::take(&mut self.continues);
        // Whether a command starts at this position, so that its first word may be a keyword.
        let mut is_command = !was_continued;
        let mut at = 0;
        while at < line.len() {
            at = match self.open.last() {
                Some(&b'\'') => self.single_quoted(line, at),
                Some(&b'"') => self.double_quoted(line, at),
                Some(&b'$') => self.braced(line, at),
                _ => self.code(line, at, &mut is_command),
            };
        }

        let text = line.trim_ascii_end();
        let ends_in_operator = text.ends_with(b"|") || text.ends_with(b"&&");
        self.continues |= ends_in_operator && !self.is_quoted();
    }

    fn is_quoted(&self) -> bool {
        matches!(self.open.last(), Some(b'\'' | b'"'))
    }

    // Each of these functions reads one token at `at` in its state, and returns the position after it.

    fn single_quoted(&mut self, line: &[u8], at: usize) -> usize {
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

    /// In `${…}`.
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

    /// An expansion: `$((…))`, `$(`, `${`, `$'`, `$"`, or a plain `$`.
    fn dollar(&mut self, line: &[u8], at: usize) -> usize {
        let rest = &line[at..];
        if rest.starts_with(b"$((") {
            return at + 1 + arithmetic_len(&rest[1..]);
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

    /// Outside quotes. Updates `is_command` for the position after the token.
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
            b'(' if rest.starts_with(b"((") => return at + arithmetic_len(rest),
            b'(' => {
                self.open.push(byte);
                *is_command = true;
            }
            b')' => {
                // A bracket of a pattern closes nothing.
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

    /// Reads a word, which may be a keyword if it is the first of a command. Returns its length.
    fn word(&mut self, rest: &[u8], was_command: bool, is_command: &mut bool) -> usize {
        let end = rest.iter().position(|byte| WORD_DELIMITERS.contains(byte));
        let len = end.unwrap_or(rest.len()).max(1);
        let word = &rest[..len];
        if was_command {
            self.blocks += usize::from(OPENING_WORDS.contains(&word));
            self.blocks -= usize::from(self.blocks > 0 && CLOSING_WORDS.contains(&word));
            match word {
                b"case" => self.open.push(CASE),
                b"esac" if self.open.last() == Some(&CASE) => drop(self.open.pop()),
                _ => {}
            }
            let leads = [b"if" as &[u8], b"while", b"until", b"{"].contains(&word);
            *is_command = leads || LEADING_WORDS.contains(&word);
        }
        len
    }

    /// Reads `<<WORD`, `<<-WORD` or `<<<`. Returns the length.
    fn redirection(&mut self, rest: &[u8]) -> usize {
        if rest.starts_with(b"<<<") {
            return 3;
        }

        let strips_tabs = rest.get(2) == Some(&b'-');
        let operator = if strips_tabs { 3 } else { 2 };
        let spaces = rest[operator..]
            .iter()
            .take_while(|byte| **byte == b' ')
            .count();
        let start = operator + spaces;

        let len = rest[start..]
            .iter()
            .position(|byte| b" \t;&|()<>".contains(byte));
        let end = len.map_or(rest.len(), |len| start + len);

        // Quotes in the word do not belong to the delimiter.
        let unquoted = rest[start..end].iter().copied();
        let delimiter = unquoted.filter(|byte| !b"'\"\\".contains(byte)).collect();
        self.here_documents.push_back(HereDocument {
            delimiter,
            strips_tabs,
        });
        end
    }

    pub(super) fn is_complete(&self) -> bool {
        let is_open = !self.open.is_empty() || self.blocks > 0 || !self.here_documents.is_empty();
        !is_open && !self.continues
    }
}

/// Returns the length of `((…))`, which starts at `text`.
fn arithmetic_len(text: &[u8]) -> usize {
    let end = text.windows(2).position(|two| two == b"))");
    end.map_or(text.len(), |end| end + 2)
}

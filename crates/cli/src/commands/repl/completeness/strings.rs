//! String literals, which Python and JavaScript have in the same form.

/// Returns the position after a string literal whose content starts at `start`: after its closing quote, or the end of the
/// line.
pub(super) fn end_of_string(line: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start;
    while at < line.len() {
        match line[at] {
            b'\\' => at += 1,
            byte if byte == quote => return at + 1,
            _ => {}
        }
        at += 1;
    }
    line.len()
}

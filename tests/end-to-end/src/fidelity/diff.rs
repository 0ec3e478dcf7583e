/// Lines shown around a change.
const CONTEXT_LINES: usize = 2;

/// Longest texts that are compared line by line. The table of the comparison has one cell for each pair of lines.
const MAX_LINES: usize = 2000;

/// Returns the differences of two texts line by line; `-` marks lines of the first, `+` those of the second.
pub(super) fn diff(expected: &str, found: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (lines(expected), lines(found));
    if old.len() > MAX_LINES || new.len() > MAX_LINES {
        return format!("  {} lines became {} lines\n", old.len(), new.len());
    }

    let edits = edits(&old, &new);
    let is_near = |at: usize| {
        let near = at.saturating_sub(CONTEXT_LINES)..(at + CONTEXT_LINES + 1).min(edits.len());
        edits[near].iter().any(|(mark, _)| *mark != ' ')
    };

    let (mut text, mut is_skipping) = (String::new(), false);
    for (at, (mark, line)) in edits.iter().enumerate() {
        if is_near(at) {
            text += &format!("  {mark}{line}\n");
            is_skipping = false;
        } else if !is_skipping {
            text += "  @@\n";
            is_skipping = true;
        }
    }
    text
}

/// Splits a text into lines. Control characters are escaped, and a missing newline at the end is shown.
fn lines(text: &str) -> Vec<String> {
    let shown = |line: &str| match line.strip_suffix('\n') {
        Some(line) => escape(line),
        None => format!("{} (no newline)", escape(line)),
    };
    text.split_inclusive('\n').map(shown).collect()
}

fn escape(line: &str) -> String {
    let characters = line.chars().map(|character| {
        if character.is_control() && character != '\t' {
            character.escape_default().to_string()
        } else {
            character.to_string()
        }
    });
    characters.collect()
}

/// Returns all lines of both texts with their marks, by a longest common subsequence.
fn edits<'a>(old: &'a [String], new: &'a [String]) -> Vec<(char, &'a str)> {
    // length[i][j]: that of the longest common subsequence of old[i..] and new[j..].
    let mut length = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for (i, line) in old.iter().enumerate().rev() {
        for (j, other) in new.iter().enumerate().rev() {
            length[i][j] = if line == other {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }

    let (mut i, mut j, mut edits) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            edits.push((' ', old[i].as_str()));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && length[i + 1][j] >= length[i][j + 1]) {
            edits.push(('-', old[i].as_str()));
            i += 1;
        } else {
            edits.push(('+', new[j].as_str()));
            j += 1;
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_are_marked() {
        assert_eq!(diff("a\nb\nc\n", "a\nx\nc\n"), "   a\n  -b\n  +x\n   c\n");
        assert_eq!(diff("a\n", "a"), "  -a\n  +a (no newline)\n");
        assert_eq!(diff("", "\u{1b}\n"), "  +\\u{1b}\n");
    }

    #[test]
    fn equal_lines_far_from_a_change_are_left_out() {
        assert_eq!(
            diff("1\n2\n3\n4\n", "1\n2\n3\n"),
            "  @@\n   2\n   3\n  -4\n"
        );
    }
}

//! Formatting that several listings share.

use std::io;
use std::time::SystemTime;

use crate::io::print_line;

/// Bytes in a MiB.
pub(super) const MIB: u64 = 1024 * 1024;

/// The number of hexadecimal digits that listings show of a key or digest.
const SHORT_HASH_DIGITS: usize = 12;

/// Returns the first digits of a hexadecimal key or digest.
pub(super) fn short_hash(hash: &str) -> &str {
    &hash[..SHORT_HASH_DIGITS.min(hash.len())]
}

/// Returns how long ago `time` was, for people. A time in the future counts as now.
pub(super) fn format_age(time: SystemTime) -> String {
    let age = SystemTime::now().duration_since(time).unwrap_or_default();
    let minutes = age.as_secs() / 60;

    match minutes {
        0 => "just now".to_string(),
        1..60 => format!("{minutes} min ago"),
        60..2880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}

/// Prints rows below a header, with columns that are as wide as their longest cell. Names are chosen by callers: their
/// control characters do not reach the terminal.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print_table<const N: usize>(
    header: &[&str; N],
    rows: &[[String; N]],
) -> io::Result<()> {
    for line in table_lines(header, rows) {
        print_line(&line)?;
    }
    Ok(())
}

fn table_lines<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut cells = vec![header.map(str::to_owned)];
    cells.extend(rows.iter().cloned());
    for cell in cells.iter_mut().flatten() {
        *cell = cell.replace(char::is_control, "\u{fffd}");
    }

    let width = |column: usize| {
        let widths = cells.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let line = |row: &[String; N]| {
        let padded = row.iter().enumerate();
        let padded = padded.map(|(column, cell)| format!("{cell:<0$}", width(column)));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_names_cannot_control_the_terminal() {
        let row = |id: &str, name: &str| [id.to_owned(), name.to_owned()];
        let lines = table_lines(&["ID", "NAME"], &[row("sb_1", "é\x1b["), row("s", "")]);
        assert_eq!(lines, ["ID    NAME", "sb_1  é\u{fffd}[", "s"]);
    }
}

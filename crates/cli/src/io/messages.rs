//! Lines that fumehood itself writes: results on standard output, everything else on standard error.

use std::fmt::Display;
use std::io::{self, Write};

use fumehood_engine::{
    Denial, NetworkAction, NetworkEvent, NetworkOutcome, NetworkSummary, Sandbox, SkippedFiles,
};

/// The number of denials that are printed one by one; the rest is counted.
const MAX_PRINTED_DENIALS: usize = 5;

/// The number of skipped files that are printed one by one; the rest is counted.
const MAX_PRINTED_FILES: usize = 10;

/// Prints a line on standard output.
///
/// # Errors
/// Writing fails. `main` recognizes a broken pipe.
pub(crate) fn print_line(line: &impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Prints a message of fumehood on standard error. A failure to write it is ignored: there is no other place to report it.
pub(crate) fn eprint_message(line: &str) {
    eprint_line(&format!("fumehood: {line}"));
}

/// Returns the message of an error with its causes. Many messages contain their cause already: it is not repeated.
pub(crate) fn error_text(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some causes only add a code before the message of the previous one.
        let last = text.rsplit(": ").next().unwrap_or_default();
        let repeats_last = !last.is_empty() && cause.ends_with(last);
        if !text.contains(&cause) && !repeats_last {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Prints a line on standard error as it is. A failure to write it is ignored, as in [`eprint_message`].
pub(crate) fn eprint_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints the files that a copy of a directory left out. `action` names the copy.
pub(crate) fn print_skipped(action: &str, skipped: &SkippedFiles) {
    let printed = skipped.files.iter().take(MAX_PRINTED_FILES);
    let mut more = skipped.count;
    for file in printed {
        eprint_message(&format!("{action}: skipped {}: {}", file.path, file.reason));
        more = more.saturating_sub(1);
    }

    if more > 0 {
        eprint_message(&format!("{action}: skipped {more} more files"));
    }
}

/// Prints the host URL of an exposed port.
pub(crate) fn print_exposed_port(url: &str) {
    eprint_message(&format!("VM port exposed at {url}"));
}

/// Prints the host URLs of all exposed ports of a sandbox.
pub(crate) fn print_exposed_ports(sandbox: &Sandbox) {
    let network = sandbox.network().unwrap_or_default();

    for url in &network.urls {
        print_exposed_port(url);
    }
}

/// Prints the connections and lookups that the policy denied.
pub(crate) fn print_denials(network: &NetworkOutcome) {
    let summary = &network.summary;
    let denials: Vec<_> = summary
        .denials
        .iter()
        .filter(|denial| !has_later_denial(denial, summary))
        .collect();

    // Each distinct denial is one line, however often it happened.
    for denial in denials.iter().take(MAX_PRINTED_DENIALS) {
        let times = match denial.times {
            1 => String::new(),
            times => format!(" ({times} times)"),
        };
        eprint_message(&format!("network: {}{times}", denial.event.message));
    }

    // The rest is counted, together with the denials that the engine did not record.
    let unprinted = denials.iter().skip(MAX_PRINTED_DENIALS);
    let more = unprinted.map(|denial| denial.times).sum::<u64>() + summary.more_denials;
    if more > 0 {
        eprint_message(&format!(
            "network: {more} more denials; use --json to list them"
        ));
    }
}

/// Returns whether a denied lookup was followed by a denied connection to the same name, which says more than the lookup.
fn has_later_denial(denial: &Denial, summary: &NetworkSummary) -> bool {
    let NetworkEvent { what, name, .. } = &denial.event;
    let is_connection =
        |other: &Denial| other.event.what != NetworkAction::Lookup && other.event.name == *name;

    *what == NetworkAction::Lookup && summary.denials.iter().any(is_connection)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn causes_are_printed_once() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let cause = full().to_string();

        // A message that contains its cause, one that does not, and both.
        let said = fumehood_engine::image::Error::Io {
            action: "write",
            path: "/x".into(),
            source: full(),
        };
        let said = anyhow::Error::from(said);
        assert_eq!(error_text(&said), format!("cannot write /x: {cause}"));

        let unsaid = anyhow::Error::from(full()).context("the build failed");
        assert_eq!(error_text(&unsaid), format!("the build failed: {cause}"));

        let both = Err::<(), _>(said).context("the build failed").unwrap_err();
        let expected = format!("the build failed: cannot write /x: {cause}");
        assert_eq!(error_text(&both), expected);
    }
}

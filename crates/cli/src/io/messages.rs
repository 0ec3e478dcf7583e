use std::fmt::Display;
use std::io::{self, Write};

use fumehood_engine::{
    Denial, NetworkAction, NetworkEvent as Event, NetworkOutcome, NetworkSummary, Sandbox,
};

/// Denials that are told one by one.
const DENIALS: usize = 5;

/// A line on standard output. Where nobody reads it, the error says so, and `main` knows that one.
pub(crate) fn say(line: &impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// A line of fumehood's own on standard error. Where that is closed there is nobody to tell.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "fumehood: {line}");
}

/// Says where exposed ports are reached.
pub(crate) fn exposed(url: &str) {
    complain(&format!("the VM is reached at {url}"));
}

/// Says what there is to say of a sandbox's network at its beginning.
pub(crate) fn greet(sandbox: &Sandbox) {
    let network = sandbox.network().unwrap_or_default();
    network.urls.iter().for_each(|url| exposed(url));
}

/// And at its end.
pub(crate) fn part(sandbox: &Sandbox) {
    denied(&sandbox.network().unwrap_or_default());
}

/// Whether a name that was denied was then denied as a connection, too, which tells more.
fn is_followed(denial: &Denial, summary: &NetworkSummary) -> bool {
    let Event { what, name, .. } = &denial.event;
    let later =
        |other: &Denial| other.event.what != NetworkAction::Lookup && other.event.name == *name;
    *what == NetworkAction::Lookup && summary.denials.iter().any(later)
}

/// Says what was denied.
pub(crate) fn denied(network: &NetworkOutcome) {
    let summary = &network.summary;
    let denials = summary.denials.iter();
    let told: Vec<_> = denials
        .filter(|denial| !is_followed(denial, summary))
        .collect();
    for denial in told.iter().take(DENIALS) {
        let times = match denial.times {
            1 => String::new(),
            times => format!(" ({times} times)"),
        };
        complain(&format!("network: {}{times}", denial.event.message));
    }
    let rest = told.iter().skip(DENIALS).map(|denial| denial.times);
    let rest = rest.sum::<u64>() + summary.more_denials;
    if rest > 0 {
        complain(&format!("network: {rest} more denials; --json has them"));
    }
}

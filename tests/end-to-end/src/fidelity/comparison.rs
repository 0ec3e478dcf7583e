use std::collections::BTreeSet;
use std::fmt;

use super::diff::diff;
use super::driver::Executions;
use super::exceptions::Exceptions;
use super::execution::Execution;
use super::modes::Mode;
use super::program::Program;

/// The result of a comparison.
#[derive(Debug, Default)]
pub struct Report {
    /// Pairs of a program and a mode that were compared.
    pub compared: usize,
    /// The differences that no exception explains, as messages.
    pub differences: Vec<String>,
    /// The programs that differ, by index.
    pub differing: BTreeSet<usize>,
    /// Exceptions that explain nothing, as messages.
    pub stale: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for message in self.differences.iter().chain(&self.stale) {
            writeln!(f, "{message}")?;
        }
        let (compared, differences) = (self.compared, self.differences.len());
        let stale = self.stale.len();
        write!(
            f,
            "{compared} compared, {differences} differ, {stale} exceptions are stale"
        )
    }
}

/// Compares what programs did in their modes with what they did with the plain interpreter. With `is_everything`, a
/// replacement that was never needed is stale, too.
#[must_use]
pub fn compare(
    programs: &[Program],
    executions: &Executions,
    exceptions: &Exceptions,
    is_everything: bool,
) -> Report {
    let mut report = Report::default();
    let mut is_needed = vec![false; exceptions.rows.len()];

    for (at, program) in programs.iter().enumerate() {
        let missing = Execution::failed("it was not run");
        let find = |mode| executions.get(&(at, mode)).unwrap_or(&missing);
        let plain = find(Mode::Plain);

        for &mode in &program.modes {
            report.compared += 1;
            let rows = exceptions.rows.iter().enumerate();
            let rows: Vec<_> = rows
                .filter(|(_, row)| row.covers(program.folder, mode))
                .collect();
            let listing = rows.iter().find(|(_, row)| row.lists(program));

            let mut found = differences(plain, find(mode));
            if !found.is_empty() {
                // The rows with replacements, one after the other, until nothing differs.
                let (mut ours, mut theirs) = (plain.clone(), find(mode).clone());
                for (number, row) in rows.iter().filter(|(_, row)| !row.normalise.is_empty()) {
                    let replaced = [&ours, &theirs].map(|one| one.map(|output| row.apply(output)));
                    let remaining = differences(&replaced[0], &replaced[1]);
                    if remaining != found {
                        is_needed[*number] = true;
                    }
                    [ours, theirs] = replaced;
                    found = remaining;
                }
            }

            match (found.is_empty(), listing) {
                (false, None) => {
                    report.differing.insert(at);
                    let title = format!("── {} in mode {}:", program.id(), mode.as_str());
                    report
                        .differences
                        .push(format!("{title}\n{}", found.concat()));
                }
                (false, Some((number, _))) => is_needed[*number] = true,
                (true, Some((_, row))) => report.stale.push(format!(
                    "exception {} lists {}, which is equal in mode {}; remove it there",
                    row.id,
                    program.id(),
                    mode.as_str()
                )),
                (true, None) => {}
            }
        }
    }

    let unneeded = exceptions
        .rows
        .iter()
        .zip(is_needed)
        .filter(|(_, is_needed)| !is_needed);
    if is_everything {
        let message = |id: &str| format!("exception {id} explains no difference; remove it");
        report
            .stale
            .extend(unneeded.map(|(row, _)| message(&row.id)));
    }
    report
}

/// Returns what differs, each with its differences.
fn differences(plain: &Execution, found: &Execution) -> Vec<String> {
    for (name, execution) in [("the plain interpreter", plain), ("this mode", found)] {
        if let Some(failure) = &execution.failure {
            return vec![format!("  {name} failed: {failure}\n")];
        }
    }

    let mut differences = Vec::new();
    let mut compare = |name: &str, expected: &[u8], found: &[u8]| {
        if expected != found {
            let (old, new) = (
                String::from_utf8_lossy(expected),
                String::from_utf8_lossy(found),
            );
            let shown = diff(&old, &new);
            let shown = if shown.is_empty() {
                "  bytes that are not UTF-8\n".into()
            } else {
                shown
            };
            differences.push(format!(" {name} (- plain, + this mode):\n{shown}"));
        }
    };
    compare("standard output", &plain.stdout, &found.stdout);
    compare("standard error", &plain.stderr, &found.stderr);

    // The order says something new only where both outputs are equal.
    if differences.is_empty()
        && plain.wrote_both()
        && let (Some(expected), Some(merged)) = (&plain.merged, &found.merged)
        && expected != merged
    {
        let (old, new) = (
            String::from_utf8_lossy(expected),
            String::from_utf8_lossy(merged),
        );
        differences.push(format!(
            " order of both outputs (- plain, + this mode):\n{}",
            diff(&old, &new)
        ));
    }
    if plain.exit_code != found.exit_code {
        let shown = |code: Option<i32>| code.map_or("none".to_owned(), |code| code.to_string());
        let (old, new) = (shown(plain.exit_code), shown(found.exit_code));
        differences.push(format!(" exit code: plain {old}, this mode {new}\n"));
    }

    differences
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::*;
    use crate::fidelity::program::Folder;

    fn execution(stdout: &str, stderr: &str, merged: &str, exit_code: i32) -> Execution {
        Execution {
            stdout: stdout.into(),
            stderr: stderr.into(),
            merged: Some(merged.into()),
            exit_code: Some(exit_code),
            failure: None,
            took: Duration::ZERO,
        }
    }

    fn report(found: Execution, exceptions: &str) -> Report {
        let mut program = Program::parse(Folder::Python, "a", String::new()).unwrap();
        program.modes = vec![Mode::Run];
        let plain = execution("1\n", "2\n", "1\n2\n", 0);
        let executions = Executions::from([((0, Mode::Plain), plain), ((0, Mode::Run), found)]);
        let exceptions = toml::from_str(exceptions).unwrap();

        compare(&[program], &executions, &exceptions, true)
    }

    #[test]
    fn streams_order_and_exit_code_are_compared() {
        for (found, part) in [
            (execution("3\n", "2\n", "3\n2\n", 0), "standard output"),
            (execution("1\n", "", "1\n", 0), "standard error"),
            (execution("1\n", "2\n", "2\n1\n", 0), "order"),
            (
                execution("1\n", "2\n", "1\n2\n", 1),
                "exit code: plain 0, this mode 1",
            ),
            (Execution::failed("lost"), "this mode failed: lost"),
        ] {
            let report = report(found, "");
            assert_eq!(report.differences.len(), 1, "{report}");
            assert!(report.differences[0].contains(part), "{part}: {report}");
        }

        let equal = report(execution("1\n", "2\n", "1\n2\n", 0), "");
        assert_eq!(
            (equal.compared, equal.differences.len(), equal.stale.len()),
            (1, 0, 0)
        );
    }

    const ROW: &str =
        "[[exception]]\nid = \"r\"\nmodes = [\"run\"]\nlanguages = [\"python\"]\nreason = \"x\"\n";

    #[test]
    fn exceptions_explain_differences() {
        let found = || execution("3\n", "2\n", "3\n2\n", 0);
        for rest in [
            "programs = ['python/a']",
            "normalise = [{ pattern = '[13]', replacement = 'n' }]",
        ] {
            let report = report(found(), &[ROW, rest].concat());
            assert!(
                report.differences.is_empty() && report.stale.is_empty(),
                "{report}"
            );
        }
    }

    #[test]
    fn exceptions_that_explain_nothing_are_reported() {
        let found = || execution("1\n", "2\n", "1\n2\n", 0);
        for rest in [
            "programs = ['python/a']",
            "normalise = [{ pattern = '1', replacement = 'n' }]",
        ] {
            let report = report(found(), &[ROW, rest].concat());
            assert!(!report.stale.is_empty(), "{rest}");
        }
    }
}

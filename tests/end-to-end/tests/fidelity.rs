//! Each program of `tests/fidelity` behaves in every mode as with the plain interpreter.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use fumehood_end_to_end::fidelity::{
    Exceptions, Program, Selection, compare, directory, execute_all, times,
};
use fumehood_end_to_end::is_long;

/// How many programs that differ run once more. If more differ, it is not the load.
const MAX_REPEATED: usize = 8;

/// Marks in the page of the documentation, before and after the table of exceptions.
const TABLE: [&str; 2] = ["<!-- exceptions: written by the test -->\n", "<!-- end -->"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_behave_as_with_the_plain_interpreter() {
    let all = Program::read_all(&directory());
    let exceptions = Exceptions::read(&directory().join("exceptions.toml"));
    let unknown = exceptions.unknown_programs(&all);
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));

    let selection = Selection::from_environment();
    let mut programs = selection.apply(all);
    assert!(!programs.is_empty(), "FUMEHOOD_FIDELITY selects no program");
    let is_everything = selection.is_everything() && is_long();
    if selection.is_everything() && !is_everything {
        Program::sample(&mut programs);
    }

    let start = Instant::now();
    let executions = execute_all(&programs).await;
    let took = start.elapsed().as_secs_f32();

    let mut report = compare(&programs, &executions, &exceptions, is_everything);
    // To standard error as it is: the test's own output is shown only if it fails.
    let lines = format!(
        "{} programs, {} comparisons in {took:.1} s\n{}",
        programs.len(),
        report.compared,
        times(&programs, &executions),
    );
    let _ = std::io::stderr().write_all(lines.as_bytes());

    // On a busy machine, the plain interpreter too fires timers late and in another order. What fumehood causes differs again.
    if (1..=MAX_REPEATED).contains(&report.differing.len()) {
        let again: Vec<Program> = report
            .differing
            .iter()
            .map(|at| programs[*at].clone())
            .collect();
        let _ = writeln!(std::io::stderr(), "{report}\nonce more:");
        let executions = execute_all(&again).await;
        report.differences = compare(&again, &executions, &exceptions, false).differences;
    }

    let stale = report.stale.iter().filter(|_| is_everything);
    assert!(
        report.differences.is_empty() && stale.count() == 0,
        "\n{report}"
    );
}

#[test]
fn the_documentation_shows_the_table_of_exceptions() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/fidelity.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(TABLE[0]).unwrap();
    let (_, after) = rest.split_once(TABLE[1]).unwrap();

    let table = Exceptions::read(&directory().join("exceptions.toml")).to_markdown();
    let expected = [before, TABLE[0], "\n", &table, "\n", TABLE[1], after].concat();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap();
    assert!(
        page == expected,
        "{} differs; write it again with UPDATE=1",
        path.display()
    );
}

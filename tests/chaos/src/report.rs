//! What was injected, and what came of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::fault::Fault;

/// The lines of the documentation between which the table is.
const MARKS: [&str; 2] = [
    "<!-- chaos: written by `cargo xtask chaos --report` -->",
    "<!-- chaos: end -->",
];

/// The results so far.
#[derive(Debug)]
pub(crate) struct Report {
    seed: u64,
    start: Instant,
    rows: BTreeMap<&'static str, Row>,
    skipped: BTreeMap<&'static str, &'static str>,
}

#[derive(Debug, Default)]
struct Row {
    promise: String,
    injected: usize,
    failed: usize,
    slowest: Duration,
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            start: Instant::now(),
            rows: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// Returns the number of faults so far.
    pub(crate) fn injected(&self) -> usize {
        self.rows.values().map(|row| row.injected).sum()
    }

    fn failed(&self) -> usize {
        self.rows.values().map(|row| row.failed).sum()
    }

    /// Records a result and prints its line.
    pub(crate) fn add(
        &mut self,
        fault: &Fault,
        occurrence: u64,
        took: Duration,
        result: anyhow::Result<()>,
    ) {
        let row = self.rows.entry(fault.name).or_default();
        row.promise = fault.promise.describe();
        row.injected += 1;
        row.slowest = row.slowest.max(took);

        let seconds = took.as_secs_f32();
        match result {
            Ok(()) => println!("ok     {seconds:6.1} s  {}", fault.name),
            Err(error) => {
                row.failed += 1;
                println!("FAILED {seconds:6.1} s  {}", fault.name);
                println!("  {error:#}");
                println!(
                    "  repeat it: cargo xtask chaos --seed {} --only {} --faults {}",
                    self.seed,
                    fault.name,
                    occurrence + 1
                );
            }
        }
    }

    /// Records a fault that cannot be injected here.
    pub(crate) fn skip(&mut self, fault: &Fault, reason: &'static str) {
        if self.skipped.insert(fault.name, reason).is_none() {
            println!("skip            {}: {reason}", fault.name);
        }
    }

    /// Whether all of this many faults were skipped.
    pub(crate) fn all_skipped(&self, faults: usize) -> bool {
        self.skipped.len() == faults
    }

    /// Prints the table.
    pub(crate) fn print_summary(&self, neighbour: &BTreeMap<&'static str, u64>) {
        println!("\n{}", self.table(neighbour));
    }

    /// Writes the table into a page of the documentation.
    ///
    /// # Errors
    /// Fails if the page cannot be read or written, or has no marks for the table.
    pub(crate) fn write(
        &self,
        page: &Path,
        neighbour: &BTreeMap<&'static str, u64>,
    ) -> anyhow::Result<()> {
        let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
        let (before, rest) = text
            .split_once(MARKS[0])
            .with_context(|| format!("{} has no line `{}`", page.display(), MARKS[0]))?;
        let (_, after) = rest
            .split_once(MARKS[1])
            .with_context(|| format!("{} has no line `{}`", page.display(), MARKS[1]))?;

        let table = self.table(neighbour);
        let text = format!("{before}{}\n{table}{}{after}", MARKS[0], MARKS[1]);
        fs::write(page, text).with_context(|| page.display().to_string())
    }

    /// Returns success if every promise was kept.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(self.failed() > 0))
    }

    fn table(&self, neighbour: &BTreeMap<&'static str, u64>) -> String {
        let done: u64 = neighbour.values().sum();
        let mut text = format!(
            "Seed {}: {} faults in {:.0} minutes, {} of them with a broken promise. Beside them, {done} pieces of work of \
             a neighbour.\n\n| fault | promised | injected | broken | slowest, with all checks |\n\
             | --- | --- | --- | --- | --- |\n",
            self.seed,
            self.injected(),
            self.start.elapsed().as_secs_f64() / 60.0,
            self.failed(),
        );
        for (name, row) in &self.rows {
            text += &format!(
                "| `{name}` | {} | {} | {} | {:.1} s |\n",
                row.promise,
                row.injected,
                row.failed,
                row.slowest.as_secs_f64()
            );
        }
        for (name, reason) in &self.skipped {
            text += &format!("| `{name}` | skipped: {reason} | 0 | 0 | |\n");
        }
        text
    }
}

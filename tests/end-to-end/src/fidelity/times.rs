use std::collections::BTreeMap;
use std::time::Duration;

use super::driver::Executions;
use super::program::Program;

/// How many programs the report of times names.
const SLOWEST: usize = 5;

/// Returns the time for each folder and mode, and the slowest programs, as lines.
#[must_use]
pub fn times(programs: &[Program], executions: &Executions) -> String {
    let (mut groups, mut totals) = (BTreeMap::new(), vec![Duration::ZERO; programs.len()]);
    for ((at, mode), execution) in executions {
        *groups
            .entry((programs[*at].folder, *mode))
            .or_insert(Duration::ZERO) += execution.took;
        totals[*at] += execution.took;
    }

    let mut lines = String::new();
    for ((folder, mode), time) in groups {
        let (folder, mode, seconds) = (folder.as_str(), mode.as_str(), time.as_secs_f32());
        lines += &format!("  {folder:10} {mode:8} {seconds:6.1} s\n");
    }

    let mut slowest: Vec<_> = totals.into_iter().zip(programs).collect();
    slowest.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    for (time, program) in slowest.iter().take(SLOWEST) {
        let (id, seconds) = (program.id(), time.as_secs_f32());
        lines += &format!("  {seconds:6.1} s  {id} in all modes\n");
    }
    lines
}

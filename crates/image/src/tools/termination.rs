//! Ends the programs of a build from outside.

use std::fs;

use rustix::process::{Pid, Signal, kill_process_group};

/// Asks the programs that builds of this process run now to terminate, with their children. The builds then fail with
/// an error and remove their work. A build that is between two programs starts the next one, so call this until it has
/// ended.
///
/// All children of this process that lead a process group are taken for such programs.
pub fn terminate_programs() {
    let own = std::process::id().cast_signed();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());

    for pid in pids.filter(|&pid| parent_and_group(pid) == Some((own, pid))) {
        if let Some(group) = Pid::from_raw(pid) {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}

/// Returns the parent and the process group of a process.
fn parent_and_group(pid: i32) -> Option<(i32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(1);
    let mut number = || fields.next()?.parse().ok();
    Some((number()?, number()?))
}

//! The processes of this run: all that its process namespace has.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

/// What `/proc/PID/stat` says about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) name: String,
    pub(crate) is_zombie: bool,
}

/// The start of the name that QEMU has in `/proc/PID/stat`, which keeps 15 characters.
const QEMU: &str = "qemu-system";

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let is_zombie = fields.next()? == "Z";

        Some(Self {
            pid,
            parent: fields.next()?.parse().ok()?,
            name: head.split_once('(')?.1.to_owned(),
            is_zombie,
        })
    }

    /// Whether this is a QEMU.
    pub(crate) fn is_qemu(&self) -> bool {
        self.name.starts_with(QEMU) && !self.is_zombie
    }
}

/// Returns all processes of this process namespace.
pub(crate) fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());

    pids.filter_map(Process::read).collect()
}

/// Returns the descendants of this process among `all`, without itself.
pub(crate) fn below(all: &[Process], pid: u32) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|process| process.parent == parent) {
            parents.push(child.pid);
            found.push(child.clone());
        }
    }

    found
}

/// Returns the QEMU processes below this process.
pub(crate) fn qemus_of(pid: u32) -> Vec<u32> {
    let below = below(&all(), pid);
    let qemus = below.iter().filter(|process| process.is_qemu());
    qemus.map(|process| process.pid).collect()
}

/// Sends a signal. A process that has ended already is not an error: the fault came too late to change anything.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Returns the number of descriptors that a process has open.
pub(crate) fn all_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Returns the number of descriptors that a process has open. Those of hot images do not count: they are opened when the
/// first VM continues from one, and stay open.
pub(crate) fn descriptors(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let targets = entries.flatten().map(|entry| fs::read_link(entry.path()));
    let is_counted = |target: &PathBuf| {
        let of_image = ["templates", "hot-images", "lib", "x86_64-linux-gnu"];
        let mut parts = target.iter();
        let is_program = target.starts_with("/usr/bin");
        !is_program && !parts.any(|part| of_image.iter().any(|name| part == *name))
    };
    targets.flatten().filter(is_counted).count()
}

/// Returns a process's memory that belongs to no file, in KiB.
pub(crate) fn memory_kib(pid: u32) -> u64 {
    fumehood_end_to_end::status_kib(pid, "RssAnon").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_at_any_depth() {
        let process = |pid, parent| Process {
            pid,
            parent,
            name: "x".into(),
            is_zombie: false,
        };
        let all = [process(1, 0), process(5, 1), process(9, 5), process(7, 2)];
        let pids: Vec<_> = below(&all, 1).iter().map(|process| process.pid).collect();
        assert_eq!(pids, [5, 9]);
    }

    #[test]
    fn this_process_is_among_all() {
        let own = std::process::id();
        assert!(all().iter().any(|process| process.pid == own));
        assert!(descriptors(own) > 2 && memory_kib(own) > 0);
    }
}

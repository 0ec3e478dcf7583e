use std::os::fd::OwnedFd;

use fumehood_sys::guest::ChildExit;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::cgroup::{Cgroup, Cgroups, Usage};
use crate::procfs::{self, ProcessEntry};

/// The processes of one operation: the one that was started, and all that came of it.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    cgroup: Option<Cgroup>,
    /// A file that holds the code, to be removed at the end.
    script: Option<Script>,
}

/// A file that was made for one operation.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) directory: OwnedFd,
    pub(crate) name: String,
}

/// Rounds in which processes that have no cgroup are hunted: one that forks meanwhile needs another.
const ROUNDS: usize = 3;

impl Process {
    pub(crate) fn new(pid: i32, cgroup: Option<Cgroup>, script: Option<Script>) -> Self {
        Self {
            pid,
            cgroup,
            script,
        }
    }

    /// The id of the process that was started; it leads a session and a group of that number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to the process group. Only while its leader is not reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid)
            && kill_process_group(pid, signal) == Err(Errno::SRCH)
        {
            // It has ended, and that will be seen in a moment; or it leads no group yet.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills all of it. Only while its leader is not reaped.
    pub(crate) fn kill(&self) {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => {
                hunt(|entry| entry.session == self.pid);
            }
        }
        self.signal(Signal::KILL);
    }

    /// Kills the process that holds most memory. Only with a cgroup.
    pub(crate) fn kill_largest(&self) {
        if let Some(pid) = self
            .pids()
            .into_iter()
            .max_by_key(|pid| procfs::resident_pages(*pid))
        {
            kill(pid);
        }
    }

    /// Kills what the process left when it ended, and says how many there were. Only while it is
    /// not reaped. Without a cgroup, processes that left its session are found only when no other
    /// operation is alive (`alone`): then every orphan is this one's.
    pub(crate) fn kill_left(&self, alone: bool) -> u64 {
        let Some(cgroup) = &self.cgroup else {
            let agent = rustix::process::getpid().as_raw_nonzero().get();
            let is_left = |entry: &ProcessEntry| {
                entry.pid != self.pid
                    && (entry.session == self.pid || (alone && entry.parent == agent))
            };
            return hunt(is_left);
        };
        let left = self.count_others();
        if left > 0 {
            cgroup.kill();
        }
        left
    }

    /// How many processes there are beside the one that was started. Only while that is not reaped, and
    /// with a cgroup.
    pub(crate) fn count_others(&self) -> u64 {
        let others = |cgroup: &Cgroup| {
            let processes = cgroup.processes().into_iter();
            processes.filter(|pid| *pid != self.pid).count() as u64
        };
        self.cgroup
            .as_ref()
            .filter(|cgroup| !cgroup.is_alone())
            .map_or(0, others)
    }

    /// Bytes of memory that it holds now; 0 without a cgroup.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.cgroup.as_ref().map_or(0, Cgroup::memory_bytes)
    }

    /// What it used; the kernel's own account of the cgroup, else that of the process.
    pub(crate) fn usage(&self, ended: &ChildExit) -> Usage {
        let usage = self.usage_now();
        Usage {
            cpu_time_us: usage.cpu_time_us.or(Some(ended.cpu_time_us)),
            peak_memory_bytes: usage.peak_memory_bytes.or(Some(ended.peak_memory_bytes)),
            oom_kills: usage.oom_kills,
        }
    }

    /// What it has used so far, where it has a cgroup.
    pub(crate) fn usage_now(&self) -> Usage {
        self.cgroup.as_ref().map(Cgroup::usage).unwrap_or_default()
    }

    /// All processes that belong to it, where it has a cgroup.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.cgroup
            .as_ref()
            .map(Cgroup::processes)
            .unwrap_or_default()
    }

    /// Where its processes are.
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Removes the file that held its code. After its end.
    pub(crate) fn remove_script(&mut self) {
        if let Some(script) = self.script.take() {
            // The program may have removed it itself.
            let _ = rustix::fs::unlinkat(&script.directory, &script.name, AtFlags::empty());
        }
    }

    /// Removes what was made for it. After its end.
    pub(crate) fn clean(&mut self, cgroups: Option<&mut Cgroups>) {
        self.remove_script();
        if let (Some(cgroup), Some(cgroups)) = (self.cgroup.take(), cgroups) {
            cgroups.remove(cgroup);
        }
    }
}

/// Kills every process that `is_prey` says yes to, and says how many there were.
fn hunt(is_prey: impl Fn(&ProcessEntry) -> bool) -> u64 {
    let mut killed: Vec<i32> = Vec::new();
    for _ in 0..ROUNDS {
        let found = procfs::processes().into_iter().filter(&is_prey);
        let fresh: Vec<i32> = found
            .map(|entry| entry.pid)
            .filter(|pid| !killed.contains(pid))
            .collect();
        if fresh.is_empty() {
            break;
        }
        fresh.iter().copied().for_each(kill);
        killed.extend(fresh);
    }
    killed.len() as u64
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // ESRCH: it has ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

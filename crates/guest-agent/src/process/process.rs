use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use fumehood_sys::guest::ChildExit;
use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::cgroup::{Cgroup, Cgroups, Usage};
use super::procfs::{self, ProcessEntry};

/// The processes of one operation: the one that was started, and its descendants.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    cgroup: Option<Cgroup>,
    /// A file with the code, to be removed at the end.
    code_file: Option<CodeFile>,
}

/// A file that was made for the code of one operation.
#[derive(Debug)]
pub(crate) struct CodeFile {
    pub(crate) directory: OwnedFd,
    pub(crate) name: String,
    /// The state in which the agent left the file. `None`: the interpreter writes the code, and the file is removed in any case.
    pub(crate) written: Option<FileStamp>,
}

/// Identifies the content of a file that the agent has written, without reading it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    at: SystemTime,
    /// The size that the file has if the interpreter writes the code to it.
    expected_bytes: Option<u64>,
}

impl FileStamp {
    pub(crate) fn new(stat: &Stat, bytes: u64, at: SystemTime) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes,
            at,
            expected_bytes: None,
        }
    }

    /// Whether a file has this content. A content of the same length that was written within the same tick of the kernel's
    /// clock is not noticed.
    fn matches(&self, stat: &Stat) -> bool {
        let time = (stat.st_mtime, stat.st_mtime_nsec);
        let since_epoch = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = (since_epoch.as_secs(), since_epoch.subsec_nanos());

        let is_same = (stat.st_dev, stat.st_ino) == (self.device, self.inode);
        let is_expected = self.expected_bytes.is_some()
            && u64::try_from(stat.st_size).ok() == self.expected_bytes;

        is_same && is_expected
            || is_same
                && u64::try_from(stat.st_size) == Ok(self.bytes)
                && (
                    u64::try_from(time.0).unwrap_or(0),
                    u32::try_from(time.1).unwrap_or(0),
                ) <= at
    }
}

impl CodeFile {
    /// Whether the file is unchanged since the agent wrote it. Otherwise the user has replaced it or written to it, and it is
    /// a file of the user's.
    fn is_unchanged(&self) -> bool {
        let Some(written) = &self.written else {
            return true;
        };
        let stat = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| written.matches(&stat))
    }

    fn remove(&self) {
        if self.is_unchanged() {
            // The program may have removed it.
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Number of rounds in which processes without a cgroup are killed: one that forks meanwhile needs another round.
const KILL_ROUNDS: usize = 3;

impl Process {
    pub(crate) fn new(pid: i32, cgroup: Option<Cgroup>, code_file: Option<CodeFile>) -> Self {
        Self {
            pid,
            cgroup,
            code_file,
        }
    }

    /// Notes the process that was started, and its cgroup.
    pub(crate) fn start(&mut self, pid: i32, cgroup: Option<Cgroup>) {
        self.pid = pid;
        self.cgroup = cgroup;
    }

    /// The id of the process that was started. It leads a session and a process group with this id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to the process group. Call it only while the leader is not reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid)
            && kill_process_group(pid, signal) == Err(Errno::SRCH)
        {
            // The process has ended and will be reaped in a moment, or it does not lead a group yet.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills all processes. Call it only while the leader is not reaped.
    pub(crate) fn kill(&self) {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => {
                kill_matching(|entry| entry.session == self.pid);
            }
        }

        self.signal(Signal::KILL);
    }

    /// Kills the process that uses most memory. Without a cgroup it does nothing.
    pub(crate) fn kill_largest(&self) {
        if let Some(pid) = self
            .pids()
            .into_iter()
            .max_by_key(|pid| procfs::resident_pages(*pid))
        {
            kill(pid);
        }
    }

    /// Kills the processes that are left behind at the end, and returns their number. Call it only while the
    /// process is not reaped. Without a cgroup, processes that have left its session are found only if no other operation
    /// is alive (`is_only`): then every orphan belongs to this one.
    pub(crate) fn kill_leftovers(&self, is_only: bool) -> u64 {
        let Some(cgroup) = &self.cgroup else {
            let agent = rustix::process::getpid().as_raw_nonzero().get();
            let is_left = |entry: &ProcessEntry| {
                entry.pid != self.pid
                    && (entry.session == self.pid || (is_only && entry.parent == agent))
            };
            return kill_matching(is_left);
        };

        let left = self.count_others();
        if left > 0 {
            cgroup.kill();
        }

        left
    }

    /// Counts the processes besides the one that was started. Call it only while that one is not reaped. Without a cgroup
    /// it returns 0.
    pub(crate) fn count_others(&self) -> u64 {
        let others = |cgroup: &Cgroup| {
            let processes = cgroup.processes().into_iter();
            processes.filter(|pid| *pid != self.pid).count() as u64
        };

        self.cgroup
            .as_ref()
            .filter(|cgroup| !cgroup.has_one_thread())
            .map_or(0, others)
    }

    /// The memory that the processes use now, in bytes; 0 without a cgroup.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.cgroup.as_ref().map_or(0, Cgroup::memory_bytes)
    }

    /// Returns the usage: that of the cgroup, or of the process if there is no cgroup.
    pub(crate) fn usage(&self, ended: &ChildExit) -> Usage {
        let usage = self.usage_now();
        Usage {
            cpu_time_us: usage.cpu_time_us.or(Some(ended.cpu_time_us)),
            peak_memory_bytes: usage.peak_memory_bytes.or(Some(ended.peak_memory_bytes)),
            oom_kills: usage.oom_kills,
        }
    }

    /// Returns the usage of the cgroup so far, if there is one.
    pub(crate) fn usage_now(&self) -> Usage {
        self.cgroup.as_ref().map(Cgroup::usage).unwrap_or_default()
    }

    /// Lists all processes of the cgroup, if there is one.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.cgroup
            .as_ref()
            .map(Cgroup::processes)
            .unwrap_or_default()
    }

    /// The cgroup of its processes.
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Whether the file for the code exists and is unchanged.
    pub(crate) fn has_pristine_code_file(&self) -> bool {
        self.code_file.as_ref().is_some_and(CodeFile::is_unchanged)
    }

    /// Sets the file for the code, which is removed at the end.
    pub(crate) fn set_code_file(&mut self, code_file: CodeFile) {
        self.code_file = Some(code_file);
    }

    /// Records that the interpreter may write this much code to the file later.
    pub(crate) fn expect_code(&mut self, bytes: usize) {
        if let Some(written) = self
            .code_file
            .as_mut()
            .and_then(|file| file.written.as_mut())
        {
            written.expected_bytes = Some(bytes as u64);
        }
    }

    /// Records that the agent has written the code, and returns the file's name.
    pub(crate) fn code_file_was_written(&mut self, bytes: usize) -> Option<String> {
        let code_file = self.code_file.as_mut()?;
        if let Some(written) = &mut code_file.written {
            written.bytes = bytes as u64;
            written.at = SystemTime::now();
        }

        Some(code_file.name.clone())
    }

    /// Removes the file with the code. Call it after the end.
    pub(crate) fn remove_code_file(&mut self) {
        if let Some(code_file) = self.code_file.take() {
            code_file.remove();
        }
    }

    /// Removes the code file and the cgroup. Call it after the end.
    pub(crate) fn clean_up(&mut self, cgroups: Option<&mut Cgroups>) {
        self.remove_code_file();
        if let (Some(cgroup), Some(cgroups)) = (self.cgroup.take(), cgroups) {
            cgroups.remove(cgroup);
        }
    }
}

/// Kills every matching process, and returns how many there were.
fn kill_matching(is_match: impl Fn(&ProcessEntry) -> bool) -> u64 {
    let mut killed: Vec<i32> = Vec::new();
    for _ in 0..KILL_ROUNDS {
        let found = procfs::processes().into_iter().filter(&is_match);
        let new_pids: Vec<i32> = found
            .map(|entry| entry.pid)
            .filter(|pid| !killed.contains(pid))
            .collect();

        if new_pids.is_empty() {
            break;
        }

        new_pids.iter().copied().for_each(kill);
        killed.extend(new_pids);
    }

    killed.len() as u64
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // ESRCH: the process has ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

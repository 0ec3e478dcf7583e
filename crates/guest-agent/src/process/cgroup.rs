use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Maximum number of processes and threads of one operation; a fork bomb ends here. Far above what programs need, far below
/// what would make a guest of 256 MiB slow to kill.
const MAX_PROCESSES: u64 = 512;

/// Memory that must exist for each of them, in bytes: the kernel needs some 100 KiB for the smallest. With less, a fork bomb
/// in a small guest would make the kernel kill the largest process, which belongs to another program.
const BYTES_PER_PROCESS: u64 = 256 * 1024;

/// A directory of cgroups (version 2), one for each operation.
#[derive(Debug)]
pub(crate) struct Cgroups {
    directory: OwnedFd,
    /// Maximum number of processes and threads of one operation, as text.
    pids_max: String,
    created: u64,
    /// Cgroups that could not be removed yet, because their last processes were still dying.
    lingering: Vec<String>,
}

/// The cgroup of one operation.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: OwnedFd,
    name: String,
    /// The files of [`COUNTERS`], opened at first use: a context reads them at the end of every exec.
    counters: [OnceCell<OwnedFd>; 4],
}

/// The files in which the kernel shows its counters.
const COUNTERS: [&str; 4] = ["cpu.stat", "memory.peak", "memory.events", "pids.current"];
const CPU_STAT: usize = 0;
const MEMORY_PEAK: usize = 1;
const MEMORY_EVENTS: usize = 2;
const PIDS_CURRENT: usize = 3;

/// The resources that a cgroup has used, as the kernel counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_time_us: Option<u64>,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) oom_kills: u64,
}

impl Usage {
    /// Returns the usage since `earlier`. The peak remains that of all time.
    pub(crate) fn since(self, earlier: &Self) -> Self {
        let cpu_time_us = self.cpu_time_us.zip(earlier.cpu_time_us.or(Some(0)));
        Self {
            cpu_time_us: cpu_time_us.map(|(now, then)| now.saturating_sub(then)),
            peak_memory_bytes: self.peak_memory_bytes,
            oom_kills: self.oom_kills.saturating_sub(earlier.oom_kills),
        }
    }
}

impl Cgroups {
    /// Opens `path`, an existing cgroup directory. All operations together get at most `memory_bytes`, if given.
    ///
    /// # Errors
    /// Returns the kernel's error if it is not a cgroup directory, or not writable.
    pub(crate) fn open(path: &Path, memory_bytes: Option<u64>) -> io::Result<Self> {
        let directory = open_directory(rustix::fs::CWD, path)?;
        write(
            directory.as_fd(),
            "cgroup.subtree_control",
            "+memory +pids +cpu",
        )?;

        if let Some(bytes) = memory_bytes {
            write(directory.as_fd(), "memory.max", &bytes.to_string())?;
        }

        let allowed = memory_bytes.map_or(MAX_PROCESSES, |bytes| bytes / BYTES_PER_PROCESS);

        Ok(Self {
            directory,
            pids_max: allowed.min(MAX_PROCESSES).to_string(),
            created: 0,
            lingering: Vec::new(),
        })
    }

    /// Creates an empty cgroup.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub(crate) fn create(&mut self) -> io::Result<Cgroup> {
        self.created += 1;
        let name = format!("op-{}", self.created);
        rustix::fs::mkdirat(&self.directory, &name, Mode::from_raw_mode(0o755))?;
        let directory = open_directory(self.directory.as_fd(), name.as_ref())?;
        let cgroup = Cgroup {
            directory,
            name,
            counters: Default::default(),
        };

        match write(cgroup.as_fd(), "pids.max", &self.pids_max) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                self.remove(cgroup);
                Err(error)
            }
        }
    }

    /// Removes a cgroup, at once or as soon as its last process is dead.
    pub(crate) fn remove(&mut self, cgroup: Cgroup) {
        self.lingering.push(cgroup.name);
        self.sweep();
    }

    /// Removes the cgroups that could not be removed before.
    pub(crate) fn sweep(&mut self) {
        let directory = &self.directory;
        self.lingering.retain(|name| {
            rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) == Err(Errno::BUSY)
        });
    }
}

impl AsFd for Cgroups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Cgroup {
    /// The memory that it uses now, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let mut buffer = [0; 32];
        let text = read(self.as_fd(), "memory.current", &mut buffer);
        text.trim().parse().unwrap_or(0)
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) {
        // This fails only on kernels before 5.14, where nothing else can be tried.
        let _ = write(self.as_fd(), "cgroup.kill", "1");
    }

    /// Freezes every process in it, or thaws them.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        write(
            self.as_fd(),
            "cgroup.freeze",
            if frozen { "1" } else { "0" },
        )
    }

    /// Whether all its processes are frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        let mut buffer = [0; 256];
        field(read(self.as_fd(), "cgroup.events", &mut buffer), "frozen") == Some(1)
    }

    /// The live processes in it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut buffer = [0; 8192];
        let text = read(self.as_fd(), "cgroup.procs", &mut buffer);
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether it contains exactly one thread. A process that has ended counts until it is reaped.
    pub(crate) fn has_one_thread(&self) -> bool {
        let mut buffer = [0; 32];
        self.counter(PIDS_CURRENT, &mut buffer).trim() == "1"
    }

    /// Reads the kernel's counters.
    pub(crate) fn usage(&self) -> Usage {
        let mut buffer = [0; 2048];
        let cpu_time_us = field(self.counter(CPU_STAT, &mut buffer), "usage_usec");
        let peak = self.counter(MEMORY_PEAK, &mut buffer).trim().parse().ok();
        let oom_kills = field(self.counter(MEMORY_EVENTS, &mut buffer), "oom_kill");
        Usage {
            cpu_time_us,
            peak_memory_bytes: peak,
            oom_kills: oom_kills.unwrap_or(0),
        }
    }

    /// Reads one of [`COUNTERS`]. Returns "" if it does not exist.
    fn counter<'a>(&self, which: usize, buffer: &'a mut [u8]) -> &'a str {
        let cell = &self.counters[which];
        if cell.get().is_none()
            && let Ok(file) = open_file(self.as_fd(), COUNTERS[which])
        {
            let _ = cell.set(file);
        }

        let read = cell
            .get()
            .and_then(|file| rustix::io::pread(file, &mut *buffer, 0).ok());

        std::str::from_utf8(&buffer[..read.unwrap_or(0)]).unwrap_or("")
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn open_directory(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

fn write(directory: BorrowedFd<'_>, file: &str, value: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, file, flags, Mode::empty())?;
    rustix::io::write(file, value.as_bytes())?;
    Ok(())
}

/// Opens a file of the kernel for reading.
pub(crate) fn open_file(directory: BorrowedFd<'_>, file: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, file, flags, Mode::empty())?)
}

/// Reads a file of the kernel, as much as fits into the buffer. Returns "" if it does not exist.
pub(crate) fn read<'a>(directory: BorrowedFd<'_>, file: &str, buffer: &'a mut [u8]) -> &'a str {
    let file = open_file(directory, file).ok();
    let read = file.and_then(|file| rustix::io::read(file, &mut *buffer).ok());
    std::str::from_utf8(&buffer[..read.unwrap_or(0)]).unwrap_or("")
}

/// Finds the number for `name` in lines of the form `name number`.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (found, number) = line.split_once(' ')?;
        (found == name).then(|| number.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_matches_the_whole_name() {
        let text = "oom 1\noom_kill 3\noom_group_kill 0\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "kill"), None);
    }
}

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Processes and threads of one operation at most; a fork bomb ends here. Far above what programs
/// need, far below what would make a guest of 256 MiB slow to kill.
const PROCESSES: u64 = 512;

/// Memory that there must be for each of them, in bytes: the kernel needs some 100 KiB for the smallest. Else a fork
/// bomb in a small guest has the kernel end whoever holds most, and that is somebody else.
const BYTES_PER_PROCESS: u64 = 256 * 1024;

/// A directory of cgroups (version 2), one for each operation.
#[derive(Debug)]
pub(crate) struct Cgroups {
    directory: OwnedFd,
    /// Processes and threads of one operation at most.
    processes: String,
    made: u64,
    /// Those whose last processes were still dying when they were to be removed.
    lingering: Vec<String>,
}

/// The cgroup of one operation.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: OwnedFd,
    name: String,
    /// [`COUNTERS`], opened when first asked for: a context asks at the end of every exec.
    counters: [OnceCell<OwnedFd>; 4],
}

/// Where the kernel shows what it counted.
const COUNTERS: [&str; 4] = ["cpu.stat", "memory.peak", "memory.events", "pids.current"];

/// What the kernel counted of one cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_time_us: Option<u64>,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) oom_kills: u64,
}

impl Usage {
    /// What came after `earlier`; the peak is of all time.
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
    /// Uses `path`, an existing cgroup directory. All its operations together get at most
    /// `memory_bytes`, where a figure is given.
    ///
    /// # Errors
    /// It is none, or not writable.
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
        let room = memory_bytes.map_or(PROCESSES, |bytes| bytes / BYTES_PER_PROCESS);
        Ok(Self {
            directory,
            processes: room.min(PROCESSES).to_string(),
            made: 0,
            lingering: Vec::new(),
        })
    }

    /// A new, empty cgroup.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn create(&mut self) -> io::Result<Cgroup> {
        self.made += 1;
        let name = format!("op-{}", self.made);
        rustix::fs::mkdirat(&self.directory, &name, Mode::from_raw_mode(0o755))?;
        let directory = open_directory(self.directory.as_fd(), name.as_ref())?;
        let cgroup = Cgroup {
            directory,
            name,
            counters: Default::default(),
        };
        match write(cgroup.as_fd(), "pids.max", &self.processes) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                self.remove(cgroup);
                Err(error)
            }
        }
    }

    /// Removes a cgroup, now or as soon as its last process is dead.
    pub(crate) fn remove(&mut self, cgroup: Cgroup) {
        self.lingering.push(cgroup.name);
        self.sweep();
    }

    /// Removes what could not be removed before.
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
    /// Bytes of memory that it holds now.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let mut buffer = [0; 32];
        let text = read(self.as_fd(), "memory.current", &mut buffer);
        text.trim().parse().unwrap_or(0)
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) {
        // It fails only where the kernel is older than 5.14, and nothing is left to try there.
        let _ = write(self.as_fd(), "cgroup.kill", "1");
    }

    /// Stops every process in it, or lets it go on.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        write(
            self.as_fd(),
            "cgroup.freeze",
            if frozen { "1" } else { "0" },
        )
    }

    /// Whether all of it stands still.
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

    /// Whether one thread is all there is in it. One that has ended counts until it is reaped.
    pub(crate) fn is_alone(&self) -> bool {
        let mut buffer = [0; 32];
        self.counter(3, &mut buffer).trim() == "1"
    }

    /// What the kernel has counted so far.
    pub(crate) fn usage(&self) -> Usage {
        let mut buffer = [0; 2048];
        let cpu_time_us = field(self.counter(0, &mut buffer), "usage_usec");
        let peak = self.counter(1, &mut buffer).trim().parse().ok();
        let oom_kills = field(self.counter(2, &mut buffer), "oom_kill");
        Usage {
            cpu_time_us,
            peak_memory_bytes: peak,
            oom_kills: oom_kills.unwrap_or(0),
        }
    }

    /// The text of one of [`COUNTERS`], or "" where there is none.
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

/// Opens one of the kernel's files for reading.
pub(crate) fn open_file(directory: BorrowedFd<'_>, file: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, file, flags, Mode::empty())?)
}

/// The text of one of the kernel's files, or "" where there is none. As much of it as fits.
pub(crate) fn read<'a>(directory: BorrowedFd<'_>, file: &str, buffer: &'a mut [u8]) -> &'a str {
    let file = open_file(directory, file).ok();
    let read = file.and_then(|file| rustix::io::read(file, &mut *buffer).ok());
    std::str::from_utf8(&buffer[..read.unwrap_or(0)]).unwrap_or("")
}

/// The figure behind `name` in lines of `name figure`.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (found, figure) = line.split_once(' ')?;
        (found == name).then(|| figure.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "oom 1\noom_kill 3\noom_group_kill 0\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "kill"), None);
    }
}

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a QEMU may take of the host, held by its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Memory, in MiB: its guest's and its own.
    pub memory_mib: u64,
    /// Threads.
    pub threads: u64,
    /// Processors' time, in hundredths of one processor.
    pub processor_percent: u64,
}

/// Where cgroups of this program's VMs can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// Below this directory of the unified hierarchy.
    Unified(PathBuf),
    /// Below these directories, one for each of [`CONTROLLERS`].
    Each(Vec<PathBuf>),
}

/// The controllers that a VM needs: each with a directory of its own in the older hierarchies, handed down by the
/// parent in the unified one.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Begins the name of each cgroup of ours; its owner follows, and a number.
const PREFIX: &str = "fumehood-";

/// The period of a processor limit, in microseconds; the kernel's own default.
const PERIOD_US: u64 = 100_000;

impl Hierarchy {
    /// Looks where this process may make cgroups.
    ///
    /// # Errors
    /// A sentence that says why there is no such place.
    pub(crate) fn find() -> Result<Self, String> {
        let text = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let (own, mounts) = (text("/proc/self/cgroup")?, text("/proc/self/mountinfo")?);
        let found = Self::unified(&own, &mounts).or_else(|| Self::each(&own, &mounts));
        found.ok_or_else(|| "this user may make no cgroup with memory, pids and cpu".to_owned())
    }

    /// The nearest cgroup, from this process's own upwards, which hands down what is needed and lets us
    /// make others. (One that holds processes hands down nothing, so it is seldom the own.)
    fn unified(own: &str, mounts: &str) -> Option<Self> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mount = mounts
            .lines()
            .find_map(|line| mounted(line, "cgroup2", None))?;
        let own = mount.directory(path)?;
        let above = own
            .ancestors()
            .take_while(|path| path.starts_with(&mount.point));
        let mut usable = above.filter(|path| {
            let handed =
                fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
            let has = |name: &&str| handed.split_ascii_whitespace().any(|word| word == *name);
            CONTROLLERS.iter().all(has) && may_make_in(path)
        });
        usable.next().map(|path| Self::Unified(path.to_path_buf()))
    }

    fn each(own: &str, mounts: &str) -> Option<Self> {
        let directory = |controller: &&str| {
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let is_it = controllers.split(',').any(|name| name == *controller);
                is_it.then_some(path)
            })?;
            let mount = mounts
                .lines()
                .find_map(|line| mounted(line, "cgroup", Some(controller)))?;
            mount.directory(path).filter(|path| may_make_in(path))
        };
        let each: Option<Vec<PathBuf>> = CONTROLLERS.iter().map(directory).collect();
        each.map(Self::Each)
    }

    fn directories(&self) -> &[PathBuf] {
        match self {
            Self::Unified(directory) => std::slice::from_ref(directory),
            Self::Each(directories) => directories,
        }
    }

    /// Removes what owners that were killed left. Returns whether all of it is gone: the kernel keeps one
    /// whose QEMU is still dying.
    pub(crate) fn sweep(&self) -> bool {
        let mut all = true;
        for directory in self.directories() {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            for entry in entries {
                let name = entry.file_name();
                let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
                if owner.is_some_and(|owner| !is_there(owner)) {
                    all &= fs::remove_dir(entry.path()).is_ok();
                }
            }
        }
        all
    }

    /// Makes a cgroup for one QEMU.
    ///
    /// # Errors
    /// A sentence that says what the kernel refused.
    pub(crate) fn make(&self, limits: &ResourceLimits) -> Result<Cgroup, String> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", this_process());
        let mut cgroup = Cgroup {
            directories: Vec::new(),
        };
        for directory in self.directories() {
            let directory = directory.join(&name);
            let failed = |e: io::Error| format!("{}: {e}", directory.display());
            fs::create_dir(&directory).map_err(failed)?;
            cgroup.directories.push(directory);
        }
        for (at, file, value) in self.bounds(limits) {
            let path = cgroup.directories[at].join(file);
            fs::write(&path, value).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(cgroup)
    }

    /// Which directory's file gets which value.
    fn bounds(&self, limits: &ResourceLimits) -> [(usize, &'static str, String); 3] {
        let memory = (limits.memory_mib << 20).to_string();
        let threads = limits.threads.to_string();
        let quota = limits.processor_percent * PERIOD_US / 100;
        match self {
            Self::Unified(_) => [
                (0, "memory.max", memory),
                (0, "pids.max", threads),
                (0, "cpu.max", format!("{quota} {PERIOD_US}")),
            ],
            Self::Each(_) => [
                (0, "memory.limit_in_bytes", memory),
                (1, "pids.max", threads),
                (2, "cpu.cfs_quota_us", quota.to_string()),
            ],
        }
    }
}

/// The cgroup of one QEMU. Dropping it removes it; its processes must have ended.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// How a launcher is told to begin in it.
    pub(crate) fn order(&self) -> fumehood_launcher::Cgroup {
        match &self.directories[..] {
            [one] => fumehood_launcher::Cgroup::Unified(one.clone()),
            each => fumehood_launcher::Cgroup::Each(each.to_vec()),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            // What cannot be removed now is swept later.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// A mounted hierarchy: where, and which part of it.
struct Mounted {
    point: PathBuf,
    root: PathBuf,
}

impl Mounted {
    /// Where a cgroup of the hierarchy is found.
    fn directory(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        Some(self.point.join(below))
    }
}

/// Reads a line of `mountinfo`: a hierarchy of this kind, and of this controller.
fn mounted(line: &str, kind: &str, controller: Option<&str>) -> Option<Mounted> {
    let (place, system) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let mut system = system.split(' ');
    let is_kind = system.next()? == kind;
    let mut options = system.nth(1)?.split(',');
    let has = controller.is_none_or(|controller| options.any(|option| option == controller));
    (is_kind && has).then(|| Mounted {
        point: point.into(),
        root: root.into(),
    })
}

fn may_make_in(directory: &Path) -> bool {
    use rustix::fs::Access;
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// This process's number and when it began, which together no other process has had.
fn this_process() -> String {
    let pid = std::process::id();
    format!("{pid}-{}", beginning(pid).unwrap_or(0))
}

/// Whether the owner in a name, without its prefix, still lives.
fn is_there(owner: &str) -> bool {
    let mut numbers = owner.split('-').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(pid)), Some(Ok(began))) => {
            u32::try_from(pid).is_ok_and(|pid| beginning(pid) == Some(began))
        }
        // Not a name that we give.
        _ => true,
    }
}

/// When a process began, in ticks since the host did.
fn beginning(pid: u32) -> Option<u64> {
    const AFTER_THE_NAME: usize = 19;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace()
        .nth(AFTER_THE_NAME)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_where_they_are_mounted() {
        let line = "31 23 0:27 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct";
        let mount = mounted(line, "cgroup", Some("cpu")).unwrap();
        assert_eq!(
            mount.directory("/a/b"),
            Some("/sys/fs/cgroup/cpu/a/b".into())
        );
        assert!(mounted(line, "cgroup", Some("cp")).is_none());
        assert!(mounted(line, "cgroup2", None).is_none());
        let part = "31 23 0:27 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        let mount = mounted(part, "cgroup2", None).unwrap();
        assert_eq!(mount.directory("/docker/x"), Some("/sys/fs/cgroup/".into()));
        assert_eq!(mount.directory("/other"), None);
    }

    #[test]
    fn only_cgroups_of_owners_that_have_died_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let names = [
            format!("{PREFIX}{}-0", this_process()),
            format!("{PREFIX}{pid}-1-0"),
            format!("{PREFIX}of-somebody"),
            "other".to_string(),
        ];
        for name in &names {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert!(Hierarchy::Unified(dir.path().to_path_buf()).sweep());
        let there = names.each_ref().map(|name| dir.path().join(name).exists());
        assert_eq!(there, [true, false, true, true]);
    }

    #[test]
    fn the_unified_hierarchy_is_used_where_it_hands_down() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("slice/own");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("cgroup.subtree_control"), "").unwrap();
        let mounts = format!(
            "31 23 0:27 / {} rw - cgroup2 cgroup2 rw",
            dir.path().display()
        );
        let find = || Hierarchy::unified("1:name=x:/\n0::/slice/own\n", &mounts);
        assert_eq!(find(), None);
        let slice = dir.path().join("slice");
        fs::write(slice.join("cgroup.subtree_control"), "cpu io memory pids\n").unwrap();
        assert_eq!(find(), Some(Hierarchy::Unified(slice.clone())));
        let limits = ResourceLimits {
            memory_mib: 512,
            threads: 64,
            processor_percent: 200,
        };
        let bounds = Hierarchy::Unified(slice).bounds(&limits);
        let texts = bounds.map(|(_, file, value)| format!("{file}={value}"));
        assert_eq!(
            texts,
            [
                "memory.max=536870912",
                "pids.max=64",
                "cpu.max=200000 100000"
            ]
        );
    }
}

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::spec::ResourceLimits;

/// The place where the cgroups of this program's VMs can be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hierarchy {
    /// Below this directory of the unified hierarchy.
    Unified(PathBuf),
    /// Below these directories, one for each of [`CONTROLLERS`].
    Legacy(Vec<PathBuf>),
}

/// The controllers that a VM needs. Each has a separate directory in the legacy hierarchies; in the unified one,
/// the parent must delegate them.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The prefix of the name of each of our cgroups. The owner and a number follow.
const PREFIX: &str = "fumehood-";

/// The period of a processor limit, in microseconds. This is the kernel's default.
const PERIOD_US: u64 = 100_000;

impl Hierarchy {
    /// Finds the place where this process may create cgroups.
    ///
    /// # Errors
    /// A message with the reason why there is none.
    pub(super) fn find() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        Self::find_unified(&own, &mounts)
            .or_else(|| Self::find_legacy(&own, &mounts))
            .ok_or_else(|| {
                "this user may not create cgroups with the controllers memory, pids and cpu"
                    .to_owned()
            })
    }

    /// Finds the nearest ancestor of this process's cgroup that delegates the controllers and in which we may create
    /// others. (A cgroup that contains processes delegates nothing, so it is rarely this process's own.)
    fn find_unified(own: &str, mounts: &str) -> Option<Self> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mount = mounts
            .lines()
            .find_map(|line| parse_mount(line, "cgroup2", None))?;
        let own = mount.directory(path)?;

        let mut ancestors = own
            .ancestors()
            .take_while(|path| path.starts_with(&mount.point));
        let usable = ancestors.find(|path| {
            let delegated =
                fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
            let has = |name: &&str| delegated.split_ascii_whitespace().any(|word| word == *name);
            CONTROLLERS.iter().all(has) && may_create_in(path)
        });
        usable.map(|path| Self::Unified(path.to_path_buf()))
    }

    fn find_legacy(own: &str, mounts: &str) -> Option<Self> {
        let directory = |controller: &&str| {
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let has = controllers.split(',').any(|name| name == *controller);
                has.then_some(path)
            })?;
            let mount = mounts
                .lines()
                .find_map(|line| parse_mount(line, "cgroup", Some(controller)))?;
            mount.directory(path).filter(|path| may_create_in(path))
        };

        let directories: Option<Vec<PathBuf>> = CONTROLLERS.iter().map(directory).collect();
        directories.map(Self::Legacy)
    }

    fn directories(&self) -> &[PathBuf] {
        match self {
            Self::Unified(directory) => std::slice::from_ref(directory),
            Self::Legacy(directories) => directories,
        }
    }

    /// Kills everything in the cgroups of killed owners, and removes them. Returns whether all of them are gone: the
    /// kernel keeps a cgroup whose QEMU is still exiting.
    pub(super) fn sweep(&self) -> bool {
        let mut all_removed = true;
        for directory in self.directories() {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            for entry in entries {
                let name = entry.file_name();
                let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
                if owner.is_some_and(|owner| !is_alive(owner)) {
                    all_removed &= kill_and_remove(&entry.path());
                }
            }
        }

        all_removed
    }

    /// Creates a cgroup for one QEMU.
    ///
    /// # Errors
    /// A message with the error of the kernel.
    pub(super) fn create(&self, limits: &ResourceLimits) -> Result<Cgroup, String> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", owner_id());

        let mut cgroup = Cgroup {
            directories: Vec::new(),
        };
        for directory in self.directories() {
            let directory = directory.join(&name);
            let failed = |e: io::Error| format!("{}: {e}", directory.display());
            fs::create_dir(&directory).map_err(failed)?;
            cgroup.directories.push(directory);
        }

        for (at, file, value) in self.values(limits) {
            let path = cgroup.directories[at].join(file);
            fs::write(&path, value).map_err(|e| format!("{}: {e}", path.display()))?;
        }

        Ok(cgroup)
    }

    /// Returns the values of the limits: index of the directory, name of the file, and value.
    fn values(&self, limits: &ResourceLimits) -> [(usize, &'static str, String); 3] {
        let memory = (limits.memory_mib << 20).to_string();
        let threads = limits.threads.to_string();
        let quota = limits.processor_percent * PERIOD_US / 100;
        match self {
            Self::Unified(_) => [
                (0, "memory.max", memory),
                (0, "pids.max", threads),
                (0, "cpu.max", format!("{quota} {PERIOD_US}")),
            ],
            Self::Legacy(_) => [
                (0, "memory.limit_in_bytes", memory),
                (1, "pids.max", threads),
                (2, "cpu.cfs_quota_us", quota.to_string()),
            ],
        }
    }
}

/// Kills all processes in a cgroup and removes it. Returns whether it is gone.
fn kill_and_remove(directory: &Path) -> bool {
    // Almost always it is empty: QEMU dies with its owner.
    if fs::remove_dir(directory).is_ok() {
        return true;
    }
    kill_all(directory);
    fs::remove_dir(directory).is_ok()
}

/// Kills all processes in a cgroup. Those that QEMU might start meanwhile are in it too.
fn kill_all(directory: &Path) {
    // Linux 5.14 and later, in the unified hierarchy. `fs::write` would create the file elsewhere, in tests.
    let kill = fs::OpenOptions::new()
        .write(true)
        .open(directory.join("cgroup.kill"));
    if kill.is_ok_and(|mut file| file.write_all(b"1").is_ok()) {
        return;
    }

    for pid in processes(directory) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // A process that is still listed is the one that was opened: its number cannot belong to another.
        if processes(directory).contains(&pid) {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

/// Returns the processes in a cgroup.
fn processes(directory: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let numbers = text.lines().filter_map(|line| line.parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}

/// The cgroup of one QEMU. Dropping it kills its processes and removes it.
#[derive(Debug)]
pub(super) struct Cgroup {
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// Returns the cgroup in the form of a launch request.
    pub(super) fn to_launcher(&self) -> fumehood_launcher::Cgroup {
        match &self.directories[..] {
            [one] => fumehood_launcher::Cgroup::Unified(one.clone()),
            each => fumehood_launcher::Cgroup::Legacy(each.to_vec()),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            // One that cannot be removed yet is swept by a later start, after this owner has ended.
            kill_and_remove(directory);
        }
    }
}

/// A mounted hierarchy.
struct Mount {
    /// The mount point.
    point: PathBuf,
    /// The part of the hierarchy that is mounted.
    root: PathBuf,
}

impl Mount {
    /// Returns the directory of a cgroup of the hierarchy.
    fn directory(&self, path: &str) -> Option<PathBuf> {
        let relative = Path::new(path).strip_prefix(&self.root).ok()?;
        Some(self.point.join(relative))
    }
}

/// Parses a line of `mountinfo`. Returns a mount if it has this file system type and this controller.
fn parse_mount(line: &str, kind: &str, controller: Option<&str>) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);

    let mut fields = file_system.split(' ');
    let is_kind = fields.next()? == kind;
    let mut options = fields.nth(1)?.split(',');
    let has_controller =
        controller.is_none_or(|controller| options.any(|option| option == controller));

    (is_kind && has_controller).then(|| Mount {
        point: point.into(),
        root: root.into(),
    })
}

fn may_create_in(directory: &Path) -> bool {
    use rustix::fs::Access;
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Returns the id and the start time of this process, and the namespaces in which both hold. Together they are unique.
fn owner_id() -> String {
    let pid = std::process::id();
    format!("{pid}-{}-{}", start_time(pid).unwrap_or(0), namespaces())
}

/// Returns the namespaces of this process in which ids and start times of processes hold.
fn namespaces() -> String {
    let inode = |name: &str| {
        let metadata = fs::metadata(format!("/proc/self/ns/{name}"));
        metadata.map_or(0, |metadata| metadata.ino())
    };
    format!("{}.{}", inode("pid"), inode("time"))
}

/// Returns whether the owner in the name of a cgroup (without the prefix) is alive, as far as it can be seen from here.
fn is_alive(owner: &str) -> bool {
    let mut parts = owner.split('-');
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());

    match (number(), number(), parts.next()) {
        // A container may share the hierarchy: its processes have other ids, or none that can be seen here.
        (_, _, Some(of)) if of != namespaces() => true,
        (Some(pid), Some(started), Some(_)) => {
            u32::try_from(pid).is_ok_and(|pid| start_time(pid) == Some(started))
        }
        // This is not a name of ours.
        _ => true,
    }
}

/// Returns the start time of a process, in ticks since the boot of the host.
fn start_time(pid: u32) -> Option<u64> {
    /// The index of the start time among the fields after the name.
    const START_TIME: usize = 19;

    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(START_TIME)?.parse().ok()
}

#[cfg(test)]
impl Hierarchy {
    /// The name of a cgroup whose owner was killed: no process of this id has started at tick 1.
    pub(super) fn name_of_a_killed_owner() -> String {
        format!("{PREFIX}{}-1-{}-0", std::process::id(), namespaces())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_found_below_their_mount_point() {
        let line = "31 23 0:27 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct";
        let mount = parse_mount(line, "cgroup", Some("cpu")).unwrap();
        assert_eq!(
            mount.directory("/a/b"),
            Some("/sys/fs/cgroup/cpu/a/b".into())
        );
        assert!(parse_mount(line, "cgroup", Some("cp")).is_none());
        assert!(parse_mount(line, "cgroup2", None).is_none());
        let part = "31 23 0:27 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        let mount = parse_mount(part, "cgroup2", None).unwrap();
        assert_eq!(mount.directory("/docker/x"), Some("/sys/fs/cgroup/".into()));
        assert_eq!(mount.directory("/other"), None);
    }

    #[test]
    fn only_cgroups_of_dead_owners_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let names = [
            format!("{PREFIX}{}-0", owner_id()),
            Hierarchy::name_of_a_killed_owner(),
            // This may be the owner's id in another namespace of processes, or its start in another one of time.
            format!("{PREFIX}{pid}-1-1.1-0"),
            format!("{PREFIX}unrelated"),
            "other".to_string(),
        ];

        for name in &names {
            fs::create_dir(dir.path().join(name)).unwrap();
        }

        assert!(Hierarchy::Unified(dir.path().to_path_buf()).sweep());
        let exist = names.each_ref().map(|name| dir.path().join(name).exists());
        assert_eq!(exist, [true, false, true, true, true]);
    }

    /// A real cgroup below that of this process, if one can be created here.
    fn create_cgroup(name: &str) -> Option<(Hierarchy, PathBuf)> {
        let hierarchy = Hierarchy::find()
            .inspect_err(|reason| println!("skipped: {reason}"))
            .ok()?;
        let one = Hierarchy::Unified(hierarchy.directories().last()?.clone());
        let directory = one.directories()[0].join(name);
        fs::create_dir(&directory).unwrap();
        Some((one, directory))
    }

    /// A process in a cgroup that does not die with this one.
    fn start_survivor(directory: &Path) -> std::process::Child {
        let mut command = std::process::Command::new("/bin/sleep");
        let survivor = command.arg("600").spawn().unwrap();
        fs::write(directory.join("cgroup.procs"), survivor.id().to_string()).unwrap();
        survivor
    }

    fn assert_killed(survivor: &mut std::process::Child, what: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while survivor.try_wait().unwrap().is_none() {
            if std::time::Instant::now() > deadline {
                let _ = survivor.kill();
                panic!("{what} left a process in the cgroup running");
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_sweep_kills_what_has_outlived_a_killed_owner() {
        let name = Hierarchy::name_of_a_killed_owner();
        let Some((hierarchy, directory)) = create_cgroup(&name) else {
            return;
        };

        let mut survivor = start_survivor(&directory);
        let _ = hierarchy.sweep();
        assert_killed(&mut survivor, "the sweep");
        while !hierarchy.sweep() {
            std::thread::yield_now();
        }
        assert!(!directory.exists());
    }

    #[test]
    fn the_end_of_a_vm_kills_what_is_left_in_its_cgroup() {
        let name = format!("{PREFIX}{}-test", owner_id());
        let Some((_, directory)) = create_cgroup(&name) else {
            return;
        };

        let mut survivor = start_survivor(&directory);
        drop(Cgroup {
            directories: vec![directory.clone()],
        });
        assert_killed(&mut survivor, "the end of a VM");
        let _ = fs::remove_dir(&directory);
    }

    #[test]
    fn the_unified_hierarchy_is_used_where_it_delegates() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("slice/own");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("cgroup.subtree_control"), "").unwrap();
        let mounts = format!(
            "31 23 0:27 / {} rw - cgroup2 cgroup2 rw",
            dir.path().display()
        );

        let find = || Hierarchy::find_unified("1:name=x:/\n0::/slice/own\n", &mounts);
        assert_eq!(find(), None);
        let slice = dir.path().join("slice");
        fs::write(slice.join("cgroup.subtree_control"), "cpu io memory pids\n").unwrap();
        assert_eq!(find(), Some(Hierarchy::Unified(slice.clone())));
        let limits = ResourceLimits {
            memory_mib: 512,
            threads: 64,
            processor_percent: 200,
        };

        let values = Hierarchy::Unified(slice).values(&limits);
        let texts = values.map(|(_, file, value)| format!("{file}={value}"));
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

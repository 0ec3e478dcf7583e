//! The cgroup of this run. All VMs have theirs below it, so that those of others are not counted and not swept.

use std::fs;
use std::path::PathBuf;

/// The controllers in whose hierarchies VMs have cgroups.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where hierarchies are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// In `cgroup.procs` it is the process that writes, in whichever namespace it is.
const OWN: &str = "0";

/// This run's cgroups: one in the unified hierarchy, or one for each controller; none if this user may make none.
#[derive(Debug, Default)]
pub(crate) struct OwnCgroup {
    directories: Vec<PathBuf>,
}

impl OwnCgroup {
    /// Makes the cgroups and moves this process there.
    pub(crate) fn enter(name: &str) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let legacy: Option<Vec<PathBuf>> = CONTROLLERS
            .iter()
            .map(|controller| Self::legacy(&own, controller, name))
            .collect();

        match legacy {
            Some(directories) => Self { directories },
            None => Self {
                directories: Self::unified(&own, name).into_iter().collect(),
            },
        }
    }

    /// Returns the number of cgroups of VMs.
    pub(crate) fn children(&self) -> usize {
        let each = self.directories.iter().map(|directory| {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            names.filter(|name| name.starts_with("fumehood-")).count()
        });
        each.max().unwrap_or(0)
    }

    fn legacy(own: &str, controller: &str, name: &str) -> Option<PathBuf> {
        let path = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let mut controllers = controllers.split(',');
            controllers.any(|one| one == controller).then_some(path)
        })?;
        let parent = PathBuf::from(format!("{MOUNT}/{controller}{path}"));
        let directory = parent.join(name);
        fs::create_dir(&directory).ok()?;
        fs::write(directory.join("cgroup.procs"), OWN).ok()?;
        Some(directory)
    }

    /// A cgroup that has processes passes on no controllers, so this process moves one level deeper.
    fn unified(own: &str, name: &str) -> Option<PathBuf> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let parent = PathBuf::from(format!("{MOUNT}{path}"));
        let directory = parent.parent().unwrap_or(&parent).join(name);
        let main = directory.join("main");
        fs::create_dir_all(&main).ok()?;
        let controllers = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
        fs::write(directory.join("cgroup.subtree_control"), controllers).ok()?;
        fs::write(main.join("cgroup.procs"), OWN).ok()?;
        Some(directory)
    }
}

/// Removes the cgroups of a run that has ended.
pub(crate) fn remove(name: &str) {
    let roots = fs::read_dir(MOUNT).into_iter().flatten().flatten();
    let mut directories: Vec<PathBuf> = roots.map(|entry| entry.path()).collect();
    directories.push(MOUNT.into());

    // Not deeper than a few levels: as deep as this process may be.
    for _ in 0..4 {
        let mut next = Vec::new();
        for directory in directories {
            let own = directory.join(name);
            if own.is_dir() {
                let entries = fs::read_dir(&own).into_iter().flatten().flatten();
                entries.for_each(|entry| drop(fs::remove_dir(entry.path())));
                let _ = fs::remove_dir(&own);
            }
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            let paths = entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
            next.extend(paths.map(|entry| entry.path()));
        }
        directories = next;
    }
}

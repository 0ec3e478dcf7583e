//! What remains after a fault: processes, descriptors, cgroups, files, mounts, memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};

use crate::cgroup::OwnCgroup;
use crate::places::{Places, files_below};
use crate::processes::{self, Process};
use crate::work::CommandJob;
use crate::world::{Server, World};

/// Seconds within which everything of a fault must be gone.
const WITHIN_S: u64 = 15;

/// By how much the server's memory may be above its floor, in MiB. The outputs of ended runs, which it keeps for ten
/// minutes, and the allocator's reserves are below this.
const MEMORY_MIB: u64 = 96;

/// Templates that the server may hold in memory, with one descriptor each, since hot images did not continue.
const TEMPLATES: usize = 6;

/// Files of a store, a state and a runtime directory that may come and go.
const KNOWN: [&str; 7] = [
    "server.sqlite",
    "server.sqlite-wal",
    "server.sqlite-shm",
    "server.reserve",
    "server.log",
    "server.sock",
    "filler",
];

/// What there is when nothing happens.
#[derive(Debug, Clone)]
pub(crate) struct Floor {
    qemus: usize,
    descriptors: usize,
    memory_kib: u64,
    mounts: usize,
    files: BTreeSet<PathBuf>,
}

impl Floor {
    /// Measures now.
    pub(crate) fn measure(world: &World, server: &Server) -> Self {
        Self {
            qemus: processes::qemus_of(server.pid()).len(),
            descriptors: processes::descriptors(server.pid()),
            memory_kib: processes::memory_kib(server.pid()),
            mounts: mounts(),
            files: files(&world.places),
        }
    }

    /// Takes the figures of another server: it has its own descriptors and memory.
    pub(crate) fn of_server(&self, world: &World, server: &Server) -> Self {
        Self {
            files: self.files.clone(),
            mounts: self.mounts,
            ..Self::measure(world, server)
        }
    }

    /// Waits until nothing is left of a fault. `known` are the processes of others, with their descendants.
    ///
    /// # Errors
    /// Fails with everything that is left after [`WITHIN_S`].
    pub(crate) fn wait(
        &self,
        world: &World,
        server: &Server,
        known: &[u32],
        cgroup: &OwnCgroup,
    ) -> anyhow::Result<()> {
        let deadline = world.deadline(WITHIN_S);
        let mut has_swept = false;
        loop {
            let left = self.left(world, server, known, cgroup);
            if left.is_empty() {
                return Ok(());
            }
            // The cgroup of a command that was killed is removed by the next one.
            if !has_swept && left.iter().all(|one| one.contains("cgroups")) {
                run_command(world)?;
                has_swept = true;
            }
            if std::time::Instant::now() > deadline {
                bail!("left behind: {}", left.join("; "));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn left(
        &self,
        world: &World,
        server: &Server,
        known: &[u32],
        cgroup: &OwnCgroup,
    ) -> Vec<String> {
        let mut left = Vec::new();
        let all = processes::all();
        let own = processes::below(&all, server.pid());

        for process in strangers(
            &all,
            &[known, &[server.pid(), std::process::id(), 1]].concat(),
        ) {
            left.push(format!("process {} `{}`", process.pid, process.name));
        }
        for zombie in own.iter().filter(|process| process.is_zombie) {
            left.push(format!(
                "zombie {} `{}` of the server",
                zombie.pid, zombie.name
            ));
        }

        let qemus = own.iter().filter(|process| process.is_qemu()).count();
        more("VMs of the server", qemus, self.qemus, &mut left);
        let descriptors = processes::descriptors(server.pid());
        more(
            "descriptors of the server",
            descriptors,
            self.descriptors + TEMPLATES,
            &mut left,
        );
        more("mounts", mounts(), self.mounts, &mut left);
        let living = all.iter().filter(|process| process.is_qemu()).count();
        more("cgroups", cgroup.children(), living, &mut left);

        let memory = processes::memory_kib(server.pid());
        if memory > self.memory_kib + (MEMORY_MIB << 10) {
            let (now, floor) = (memory >> 10, self.memory_kib >> 10);
            left.push(format!("memory of the server: {now} MiB, {floor} at first"));
        }
        for file in files(&world.places).difference(&self.files) {
            left.push(format!("file {}", file.display()));
        }

        left
    }
}

/// Runs a small program by a command of its own.
fn run_command(world: &World) -> anyhow::Result<()> {
    let job = CommandJob::start(world, &["run", "-l", "shell", "-c", "true"], false)?;
    let ended = job.finish(world.deadline(60))?;
    ensure!(ended.exit == Some(0), "the next command: {ended:?}");
    Ok(())
}

fn more(what: &str, now: usize, floor: usize, left: &mut Vec<String>) {
    if now > floor {
        left.push(format!("{now} {what} in place of {floor}"));
    }
}

/// Returns the living processes that neither are among `known` nor descend from them. This program and the first process
/// of the namespace are known, but others of their children are not.
fn strangers<'a>(all: &'a [Process], known: &[u32]) -> Vec<&'a Process> {
    let own = [1, std::process::id()];
    let mut families: Vec<u32> = known.to_vec();
    for pid in known.iter().filter(|pid| !own.contains(pid)) {
        families.extend(
            processes::below(all, *pid)
                .iter()
                .map(|process| process.pid),
        );
    }

    let living = all.iter().filter(|process| !process.is_zombie);
    living
        .filter(|process| !families.contains(&process.pid))
        .collect()
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| text.lines().count())
}

/// Returns the files in which something could be left behind.
fn files(places: &Places) -> BTreeSet<PathBuf> {
    let staging = |path: &PathBuf| path.extension().is_some_and(|end| end != "lock");
    let directories = [
        places.temporary.clone(),
        places.runtime.clone(),
        places.state.clone(),
        places.store.join("tmp"),
        PathBuf::from("/dev/shm"),
    ];

    let mut all: BTreeSet<PathBuf> = directories.iter().flat_map(|d| files_below(d)).collect();
    for cache in ["templates", "hot-images", "layers"] {
        let entries = fs::read_dir(places.store.join(cache)).into_iter().flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        all.extend(paths.filter(staging));
    }

    all.retain(|path| !is_known(path));
    all
}

fn is_known(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| KNOWN.contains(&name) || name.ends_with(".lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_families_of_known_processes_are_known() {
        let process = |pid, parent| Process {
            pid,
            parent,
            name: "x".into(),
            is_zombie: false,
        };
        let all = [
            process(1, 0),
            process(50, 1),
            process(60, 50),
            process(70, 1),
        ];
        let found: Vec<_> = strangers(&all, &[1, 50]).iter().map(|p| p.pid).collect();
        assert_eq!(found, [70]);
    }
}

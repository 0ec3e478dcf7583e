//! The agent and the processes of other users.

use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use fumehood_sys::guest::SyscallProbe;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};
use rustix::thread::ThreadNameSpaceType;

use crate::verdict::{Verdict, Wall};

/// The agent is the first process.
const AGENT: Pid = Pid::INIT;

pub(crate) const WALLS: &[Wall] = &[
    Wall {
        name: "the agent's life",
        tried: "SIGTERM by kill, SIGSTOP by a descriptor of the process",
        attempt: signals,
    },
    Wall {
        name: "the agent's memory",
        tried: "ptrace, process_vm_readv, /proc/1/mem, /proc/1/maps",
        attempt: memory,
    },
    Wall {
        name: "the agent's descriptors",
        tried: "pidfd_getfd, /proc/1/fd, its limits, its namespaces",
        attempt: descriptors,
    },
    Wall {
        name: "other users' processes",
        tried: "look for them in /proc",
        attempt: other_users_processes,
    },
    Wall {
        name: "own descriptors",
        tried: "look for those beyond standard input and output",
        attempt: own_descriptors,
    },
];

fn agent() -> rustix::io::Result<OwnedFd> {
    rustix::process::pidfd_open(AGENT, PidfdFlags::empty())
}

fn signals() -> Verdict {
    let stop = agent().and_then(|agent| rustix::process::pidfd_send_signal(agent, Signal::STOP));
    Verdict::all([
        (
            "SIGTERM",
            Verdict::denied(rustix::process::kill_process(AGENT, Signal::TERM)),
        ),
        ("SIGSTOP", Verdict::denied(stop)),
    ])
}

fn memory() -> Verdict {
    let agent = AGENT.as_raw_nonzero().get();
    Verdict::all([
        ("ptrace", Verdict::denied(SyscallProbe::Trace(agent).make())),
        (
            "process_vm_readv",
            Verdict::denied(SyscallProbe::ReadMemory(agent).make()),
        ),
        ("mem", Verdict::absent(File::open("/proc/1/mem"))),
        ("maps", Verdict::absent(File::open("/proc/1/maps"))),
    ])
}

fn descriptors() -> Verdict {
    let first =
        agent().and_then(|agent| rustix::process::pidfd_getfd(agent, 0, PidfdGetfdFlags::empty()));
    let spaces = agent().and_then(|agent| {
        rustix::thread::move_into_thread_name_spaces(
            std::os::fd::AsFd::as_fd(&agent),
            ThreadNameSpaceType::MOUNT,
        )
    });

    let limit = SyscallProbe::ReadLimit(AGENT.as_raw_nonzero().get()).make();

    Verdict::all([
        ("pidfd_getfd", Verdict::denied(first)),
        ("/proc/1/fd", Verdict::absent(fs::read_dir("/proc/1/fd"))),
        ("limits", Verdict::denied(limit)),
        ("namespaces", Verdict::denied(spaces)),
    ])
}

fn other_users_processes() -> Verdict {
    let own = rustix::process::getuid().as_raw();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found = Vec::new();

    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_process = name.bytes().all(|b| b.is_ascii_digit());
        if is_process && entry.metadata().is_ok_and(|m| m.uid() != own) {
            found.push(name);
        }
    }

    Verdict::none(&found)
}

fn own_descriptors() -> Verdict {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();

    let mut found = Vec::new();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = fs::read_link(entry.path()).unwrap_or_default();
        // The descriptor that reads this directory.
        let is_this = target.ends_with("fd");

        if !["0", "1", "2"].contains(&name.as_str()) && !is_this {
            found.push(format!("{name} = {}", target.display()));
        }
    }

    Verdict::none(&found)
}

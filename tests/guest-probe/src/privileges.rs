//! Operations that only the guest's root may perform.

use std::fs;
use std::os::fd::AsFd;

use fumehood_sys::guest::SyscallProbe;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsopen, mount, mount_bind, mount_remount,
    open_tree, unmount,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::system::RebootCommand;
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::time::ClockId;

use crate::verdict::{Verdict, Wall};

pub(crate) const WALLS: &[Wall] = &[
    Wall {
        name: "mounts",
        tried: "mount a tmpfs, mount a directory elsewhere, make the root writable anew, unmount /proc, pivot_root, \
                fsopen, open_tree",
        attempt: mounts,
    },
    Wall {
        name: "namespaces",
        tried: "unshare mounts, processes, network, names, IPC, cgroups",
        attempt: namespaces,
    },
    Wall {
        name: "user namespaces",
        tried: "unshare users, to be root in a namespace; /proc/self/ns/user",
        attempt: || {
            // Kernels of Debian check the permission before they report that they have no user namespaces.
            let unshared = SyscallProbe::Unshare(0x1000_0000).make();
            Verdict::all([
                (
                    "unshare",
                    Verdict::expected(unshared, &[Errno::PERM, Errno::INVAL]),
                ),
                (
                    "namespace",
                    Verdict::absent(fs::metadata("/proc/self/ns/user")),
                ),
            ])
        },
    },
    Wall {
        name: "root",
        tried: "setresuid, setresgid to 0",
        attempt: || {
            Verdict::all([
                (
                    "setresuid",
                    Verdict::denied(SyscallProbe::SetUser(0).make()),
                ),
                (
                    "setresgid",
                    Verdict::denied(SyscallProbe::SetGroup(0).make()),
                ),
            ])
        },
    },
    Wall {
        name: "capabilities",
        tried: "look for one, raise all, look whether a program could gain one",
        attempt: capabilities,
    },
    Wall {
        name: "root directory",
        tried: "chroot",
        attempt: || Verdict::denied(rustix::process::chroot("/tmp")),
    },
    Wall {
        name: "names",
        tried: "sethostname, setdomainname",
        attempt: || {
            Verdict::all([
                ("host", Verdict::denied(rustix::system::sethostname(b"x"))),
                (
                    "domain",
                    Verdict::denied(rustix::system::setdomainname(b"x")),
                ),
            ])
        },
    },
    Wall {
        name: "clock",
        tried: "clock_settime, adjtimex",
        attempt: || {
            let now = rustix::time::clock_gettime(ClockId::Realtime);
            let set = rustix::time::clock_settime(ClockId::Realtime, now);
            Verdict::all([
                ("set", Verdict::denied(set)),
                ("adjust", Verdict::denied(SyscallProbe::AdjustClock.make())),
            ])
        },
    },
    Wall {
        name: "precedence",
        tried: "a nice value below 0, real-time scheduling, a lower oom_score_adj, a higher limit of open files",
        attempt: precedence,
    },
    Wall {
        name: "restart",
        tried: "reboot, kexec_load",
        attempt: || {
            // Harmless if it is allowed: this only changes the effect of Ctrl-Alt-Del.
            let reboot = rustix::system::reboot(RebootCommand::CadOff);
            Verdict::all([
                ("reboot", Verdict::denied(reboot)),
                ("kexec", Verdict::denied(SyscallProbe::Kexec.make())),
            ])
        },
    },
    Wall {
        name: "swap and accounting",
        tried: "swapon, acct",
        attempt: || {
            Verdict::all([
                ("swapon", Verdict::denied(SyscallProbe::Swap.make())),
                ("acct", Verdict::denied(SyscallProbe::Accounting.make())),
            ])
        },
    },
];

fn mounts() -> Verdict {
    let none = MountFlags::empty();
    Verdict::all([
        (
            "tmpfs",
            Verdict::denied(mount("x", "/tmp", "tmpfs", none, None)),
        ),
        ("bind", Verdict::denied(mount_bind("/tmp", "/mnt"))),
        ("remount", Verdict::denied(mount_remount("/", none, c""))),
        (
            "unmount",
            Verdict::denied(unmount("/proc", UnmountFlags::DETACH)),
        ),
        (
            "pivot_root",
            Verdict::denied(rustix::process::pivot_root("/tmp", "/tmp")),
        ),
        (
            "fsopen",
            Verdict::denied(fsopen("tmpfs", FsOpenFlags::empty())),
        ),
        (
            "open_tree",
            Verdict::denied(open_tree(CWD.as_fd(), "/", OpenTreeFlags::OPEN_TREE_CLONE)),
        ),
    ])
}

/// CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWCGROUP.
fn namespaces() -> Verdict {
    let unshare = |spaces| Verdict::denied(SyscallProbe::Unshare(spaces).make());
    Verdict::all([
        ("mounts", unshare(0x2_0000)),
        ("processes", unshare(0x2000_0000)),
        ("network", unshare(0x4000_0000)),
        ("names", unshare(0x400_0000)),
        ("IPC", unshare(0x800_0000)),
        ("cgroups", unshare(0x200_0000)),
    ])
}

fn capabilities() -> Verdict {
    let raised = CapabilitySets {
        effective: CapabilitySet::all(),
        permitted: CapabilitySet::all(),
        inheritable: CapabilitySet::all(),
    };

    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = status.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("?")
            .trim()
            .to_owned()
    };

    let mut found = Vec::new();
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        let set = field(name);
        if set != "0000000000000000" {
            found.push(format!("{name} {set}"));
        }
    }

    if field("NoNewPrivs:") != "1" {
        found.push("programs may gain privileges".to_owned());
    }

    Verdict::all([
        ("found", Verdict::none(&found)),
        (
            "raise",
            Verdict::denied(rustix::thread::set_capabilities(None, raised)),
        ),
    ])
}

fn precedence() -> Verdict {
    let lower = fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|file| Ok(rustix::io::write(file, b"0")?));

    let max = getrlimit(Resource::Nofile).maximum.map(|max| max + 1);
    let more = Rlimit {
        current: max,
        maximum: max,
    };

    Verdict::all([
        ("nice", Verdict::denied(rustix::process::nice(-1))),
        ("real time", Verdict::denied(SyscallProbe::RealTime.make())),
        ("oom_score_adj", Verdict::denied(lower)),
        (
            "open files",
            Verdict::denied(setrlimit(Resource::Nofile, more)),
        ),
    ])
}

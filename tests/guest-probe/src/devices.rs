//! Device nodes.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat};

use crate::files::paths_below;
use crate::verdict::{Verdict, Wall};

pub(crate) const WALLS: &[Wall] = &[
    Wall {
        name: "disks",
        tried: "open /dev/vda and /dev/vdb, to read and to write",
        attempt: || {
            let read = |path| Verdict::denied(File::open(path));
            let write = |path| Verdict::denied(open(path, OFlags::WRONLY));
            Verdict::all([
                ("vda", read("/dev/vda")),
                ("vdb", read("/dev/vdb")),
                ("write vda", write("/dev/vda")),
                ("write vdb", write("/dev/vdb")),
            ])
        },
    },
    Wall {
        name: "the agent's port",
        tried: "open each virtio port, to read and to write",
        attempt: ports,
    },
    Wall {
        name: "serial port",
        tried: "open /dev/ttyS0 and /dev/console, to read and to write",
        attempt: || {
            Verdict::all([
                ("ttyS0", Verdict::denied(open("/dev/ttyS0", OFlags::RDONLY))),
                (
                    "console",
                    Verdict::denied(open("/dev/console", OFlags::RDONLY)),
                ),
                (
                    "write ttyS0",
                    Verdict::denied(open("/dev/ttyS0", OFlags::WRONLY)),
                ),
                (
                    "write console",
                    Verdict::denied(open("/dev/console", OFlags::WRONLY)),
                ),
            ])
        },
    },
    Wall {
        name: "other devices",
        tried: "open every node below /dev but null, zero, full, random, urandom and terminals, to read and to write",
        attempt: others,
    },
    Wall {
        name: "new device nodes",
        tried: "mknod of a disk and of the kernel's memory",
        attempt: || {
            let make = |kind, major, minor| {
                mknodat(
                    CWD,
                    "/tmp/node",
                    kind,
                    Mode::from_raw_mode(0o600),
                    makedev(major, minor),
                )
            };
            Verdict::all([
                ("disk", Verdict::denied(make(FileType::BlockDevice, 254, 0))),
                (
                    "memory",
                    Verdict::denied(make(FileType::CharacterDevice, 1, 1)),
                ),
            ])
        },
    },
];

fn open(path: &str, flags: OFlags) -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::fs::open(
        path,
        flags | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    )
}

fn nodes() -> Vec<String> {
    let is_node = |path: &String| {
        fs::symlink_metadata(path)
            .is_ok_and(|m| m.file_type().is_char_device() || m.file_type().is_block_device())
    };
    paths_below("/dev").into_iter().filter(is_node).collect()
}

fn ports() -> Verdict {
    let ports = nodes()
        .into_iter()
        .filter(|path| path.starts_with("/dev/vport"));

    let ports: Vec<String> = ports.collect();
    let Some(port) = ports.first() else {
        return Verdict::fails("no port was found");
    };

    Verdict::all([
        ("read", Verdict::denied(open(port, OFlags::RDONLY))),
        ("write", Verdict::denied(open(port, OFlags::WRONLY))),
        ("others", Verdict::none(&openable(ports))),
    ])
}

/// Returns the paths that can be opened.
fn openable(paths: Vec<String>) -> Vec<String> {
    let opens = |path: &String| {
        [OFlags::RDONLY, OFlags::WRONLY]
            .into_iter()
            .any(|flags| open(path, flags).is_ok())
    };
    paths.into_iter().filter(opens).collect()
}

fn others() -> Verdict {
    const ALLOWED: [&str; 8] = [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/",
    ];

    let is_allowed = |path: &String| {
        let name = path.trim_start_matches("/dev/");
        ALLOWED
            .iter()
            .any(|own| name == *own || (own.ends_with('/') && name.starts_with(own)))
    };

    let rest = nodes().into_iter().filter(|path| !is_allowed(path));

    Verdict::none(&openable(rest.collect()))
}

//! The layers, and what the probe tries at each.

use serde_json::{Value, json};

use crate::breaches::Breaches;
use crate::{files, identity, kernel, processes};

/// A function that tries to breach a layer.
type Attempts = fn() -> Breaches;

/// The name of a layer, a description of the attempts, and the function that makes them.
pub(crate) type Layer = (&'static str, &'static str, Attempts);

/// All layers.
pub(crate) const WALLS: [Layer; 14] = [
    (
        "host's files",
        "read /etc, /root, /home, /tmp, /var, /sys, the kernel's files, /proc/1/root",
        files::read,
    ),
    (
        "writing",
        "make files, directories, links; open for writing what it runs from",
        files::write,
    ),
    (
        "root",
        "look for anything in / and /etc that QEMU does not need",
        files::root,
    ),
    (
        "descriptors",
        "look for those that QEMU was not given",
        files::descriptors,
    ),
    (
        "templates",
        "write to each file that it holds",
        files::templates,
    ),
    (
        "devices",
        "open disks, memory, terminals, tun, fuse; mknod",
        files::devices,
    ),
    (
        "processes",
        "look for others in /proc; kill each of the first 4,096",
        processes::others,
    ),
    (
        "others' memory and descriptors",
        "/proc/PID/mem and pidfd_open of each of the first 4,096",
        processes::memory,
    ),
    (
        "survival",
        "leave a process behind, take the death signal back, lose it by an exec from a second thread",
        processes::survival,
    ),
    (
        "sockets",
        "sockets of IPv4, IPv6, Unix, netlink, packets, vsock; look for network devices",
        kernel::sockets,
    ),
    (
        "system calls",
        "each that the filter keeps from the kernel, mount, pivot_root, bpf, ptrace and io_uring among them",
        kernel::calls,
    ),
    (
        "arguments",
        "some hundred calls with arguments that reach others: signals, limits and clocks of other processes, sockets to names, files that others use, large pages, devices",
        kernel::arguments,
    ),
    (
        "privileges",
        "setresuid, setresgid, setgroups, capset; look whether an exec could gain any",
        identity::privileges,
    ),
    (
        "identity",
        "look for the host's name, its variables, its cgroups, limits that are not set",
        identity::identity,
    ),
];

/// Makes the attempts at a layer.
pub(crate) fn verdict((wall, tried, attempts): Layer) -> Value {
    let breaches = attempts();
    json!({
        "wall": wall,
        "tried": tried,
        "holds": breaches.is_empty(),
        "evidence": if breaches.is_empty() {
            "none".to_string()
        } else {
            breaches.join("; ")
        },
    })
}

//! Started in QEMU's place by the tests, by the same launcher with the same order: tries what a QEMU that
//! has fallen would try, and says on standard error, in one line of JSON, which walls held.

mod files;
mod identity;
mod kernel;
mod processes;

use serde_json::json;

/// What was tried at one wall: nothing, if it held; else what got through.
type Breaches = Vec<String>;

/// Attempts at a wall.
type Attempts = fn() -> Breaches;

/// All walls: the name, what is tried, and how.
const WALLS: [(&str, &str, Attempts); 13] = [
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
    ("survival", "leave a process behind", processes::survival),
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
        "privileges",
        "setresuid, setresgid, setgroups, capset; look whether any could be gained",
        identity::privileges,
    ),
    (
        "identity",
        "look for the host's name, its variables, its cgroups, limits that are not set",
        identity::identity,
    ),
];

fn main() {
    if std::env::args().nth(1).as_deref() == Some(processes::SURVIVE) {
        processes::survive();
    }
    // Some attempts would change a host that lets them: nothing is tried where no launcher was before.
    if !identity::has_given_up_rights() {
        eprintln!(
            "{}",
            json!([{"wall": "launcher", "holds": false, "evidence": "it was started with rights"}])
        );
        return;
    }
    let verdicts = WALLS.map(|(wall, tried, attempts)| {
        let breaches = attempts();
        json!({
            "wall": wall,
            "tried": tried,
            "holds": breaches.is_empty(),
            "evidence": match breaches.is_empty() {
                true => "none".to_string(),
                false => breaches.join("; "),
            },
        })
    });
    eprintln!("{}", json!(verdicts));
}

/// What got through, of attempts that should all fail.
fn succeeded<T, E>(attempts: impl IntoIterator<Item = (String, Result<T, E>)>) -> Breaches {
    let attempts = attempts.into_iter();
    attempts
        .filter_map(|(what, result)| result.is_ok().then_some(what))
        .collect()
}

//! The kernel's system calls, information and settings.

use std::fs::{self, File};
use std::path::Path;

use fumehood_sys::guest::SyscallProbe;
use rustix::fs::{Mode, OFlags};

use crate::files::{paths_below, writable};
use crate::verdict::{Verdict, Wall};

pub(crate) const WALLS: &[Wall] = &[
    Wall {
        name: "kernel modules",
        tried: "init_module, finit_module, delete_module",
        attempt: modules,
    },
    Wall {
        name: "BPF",
        tried: "bpf, for a map",
        attempt: || Verdict::denied(SyscallProbe::Bpf.make()),
    },
    Wall {
        name: "io_uring",
        tried: "io_uring_setup",
        attempt: || Verdict::denied(SyscallProbe::IoUring.make()),
    },
    Wall {
        name: "userfaultfd",
        tried: "userfaultfd, for its own faults",
        attempt: || Verdict::denied(SyscallProbe::UserFault.make()),
    },
    Wall {
        name: "performance counters",
        tried: "perf_event_open, for itself outside of the kernel",
        attempt: || Verdict::denied(SyscallProbe::PerfEvent.make()),
    },
    Wall {
        name: "keyrings",
        tried: "add_key; /proc/keys",
        attempt: || {
            Verdict::all([
                ("add_key", Verdict::denied(SyscallProbe::AddKey.make())),
                ("/proc/keys", Verdict::absent(File::open("/proc/keys"))),
            ])
        },
    },
    Wall {
        name: "fanotify",
        tried: "fanotify_init, as an ordinary user may",
        attempt: || Verdict::denied(SyscallProbe::Fanotify.make()),
    },
    Wall {
        name: "file handles",
        tried: "open_by_handle_at",
        attempt: || Verdict::denied(SyscallProbe::OpenByHandle.make()),
    },
    Wall {
        name: "I/O ports",
        tried: "iopl, ioperm; /dev/port",
        attempt: || {
            Verdict::all([
                ("iopl", Verdict::denied(SyscallProbe::IoPrivilege.make())),
                ("ioperm", Verdict::denied(SyscallProbe::IoPermission.make())),
                ("/dev/port", Verdict::absent(File::open("/dev/port"))),
            ])
        },
    },
    Wall {
        name: "processor tables",
        tried: "modify_ldt, a page at address 0",
        attempt: || {
            Verdict::all([
                (
                    "modify_ldt",
                    Verdict::denied(SyscallProbe::LocalDescriptors.make()),
                ),
                ("page", Verdict::denied(SyscallProbe::PageZero.make())),
            ])
        },
    },
    Wall {
        name: "virtual machines",
        tried: "vmx and svm in /proc/cpuinfo; /dev/kvm",
        attempt: || {
            Verdict::all([
                ("processor", Verdict::none(&virtualization())),
                ("/dev/kvm", Verdict::absent(fs::metadata("/dev/kvm"))),
            ])
        },
    },
    Wall {
        name: "kernel log",
        tried: "syslog, /dev/kmsg to read and to write, /proc/kmsg",
        attempt: || {
            Verdict::all([
                ("syslog", Verdict::denied(SyscallProbe::KernelLog.make())),
                ("read", Verdict::denied(File::open("/dev/kmsg"))),
                ("write", Verdict::denied(open_to_write("/dev/kmsg"))),
                ("/proc/kmsg", Verdict::denied(File::open("/proc/kmsg"))),
            ])
        },
    },
    Wall {
        name: "kernel memory",
        tried: "/dev/mem, /dev/kmem, /proc/kcore, /proc/kallsyms, /proc/timer_list, /proc/slabinfo, /proc/vmallocinfo",
        attempt: memory,
    },
    Wall {
        name: "kernel addresses",
        tried: "addresses in /proc/net/unix, /proc/net/netlink, /proc/iomem; page frames in /proc/self/pagemap",
        attempt: addresses,
    },
    Wall {
        name: "kernel debugging",
        tried: "what is in /sys/kernel/debug, /sys/kernel/tracing, /sys/kernel/security; /proc/sysrq-trigger",
        attempt: || {
            let places = ["debug", "tracing", "security"];
            let found = places.map(|place| paths_below(&format!("/sys/kernel/{place}")));
            Verdict::all([
                ("files", Verdict::none(&found.concat())),
                ("sysrq", Verdict::absent(File::open("/proc/sysrq-trigger"))),
            ])
        },
    },
    Wall {
        name: "programs that the kernel starts",
        tried: "core_pattern, modprobe, hotplug, binfmt_misc",
        attempt: || {
            let kernel = ["core_pattern", "modprobe", "hotplug"];
            let found = kernel.map(|name| format!("/proc/sys/kernel/{name}"));
            let all = found
                .into_iter()
                .chain(["/proc/sys/fs/binfmt_misc/register".to_owned()]);
            let existing: Vec<String> = all.filter(|path| Path::new(path).exists()).collect();
            Verdict::none(&existing)
        },
    },
    Wall {
        name: "kernel settings",
        tried: "open every file below /proc/sys to write",
        attempt: || Verdict::none(&writable(paths_below("/proc/sys"))),
    },
    Wall {
        name: "kernel objects",
        tried: "open every file below /sys to write, cgroups included",
        attempt: || Verdict::none(&writable(paths_below("/sys"))),
    },
    Wall {
        name: "own cgroup",
        tried: "move itself to another, raise its limits, make one",
        attempt: cgroup,
    },
    Wall {
        name: "the host's names",
        tried: "firmware's tables, names and paths in /proc/cmdline",
        attempt: host,
    },
];

fn open_to_write(path: &str) -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())
}

fn modules() -> Verdict {
    let program = File::open("/proc/self/exe");
    let by_file = program.and_then(|file| Ok(rustix::system::finit_module(file, c"", 0)?));
    Verdict::all([
        (
            "init",
            Verdict::denied(rustix::system::init_module(b"x", c"")),
        ),
        ("finit", Verdict::denied(by_file)),
        (
            "delete",
            Verdict::denied(rustix::system::delete_module(c"x", 0)),
        ),
    ])
}

/// Returns the extensions of the processor that a guest could run guests with. Fails closed if the list is unreadable.
fn virtualization() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let Some(flags) = text.lines().find(|line| line.starts_with("flags")) else {
        return vec!["no flags".to_owned()];
    };
    let found = flags
        .split_whitespace()
        .filter(|flag| matches!(*flag, "vmx" | "svm"));

    found.map(str::to_owned).collect()
}

fn memory() -> Verdict {
    let is_open = |path: &&str| File::open(path).is_ok();

    let paths = [
        "/dev/mem",
        "/dev/kmem",
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/timer_list",
        "/proc/slabinfo",
        "/proc/vmallocinfo",
    ];

    let open: Vec<String> = paths
        .into_iter()
        .filter(is_open)
        .map(str::to_owned)
        .collect();

    Verdict::none(&open)
}

/// Looks for words of non-zero hexadecimal digits where the kernel shows addresses at the start of a line.
fn addresses() -> Verdict {
    let mut found = Vec::new();
    for path in ["/proc/net/unix", "/proc/net/netlink", "/proc/iomem"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        let first = text
            .lines()
            .filter_map(|line| line.split_whitespace().next());

        let digits = first.map(|word| word.trim_end_matches(':'));
        let is_shown = |word: &&str| {
            let is_address = |part: &str| {
                part.len() >= 8
                    && part.bytes().all(|b| b.is_ascii_hexdigit())
                    && part.bytes().any(|b| b != b'0')
            };
            word.split('-').any(is_address)
        };

        found.extend(
            digits
                .filter(is_shown)
                .map(|word| format!("{path}: {word}")),
        );
    }

    found.extend(page_frame().map(|frame| format!("page frame {frame:#x}")));

    Verdict::none(&found)
}

/// Returns the page frame of this function's code, if the kernel reveals it.
fn page_frame() -> Option<u64> {
    use std::os::unix::fs::FileExt;
    const PAGE_BYTES: u64 = 4096;
    const FRAME: u64 = (1 << 55) - 1;
    let address = page_frame as *const () as u64;
    let mut entry = [0; 8];
    let file = File::open("/proc/self/pagemap").ok()?;
    file.read_exact_at(&mut entry, address / PAGE_BYTES * 8)
        .ok()?;
    let frame = u64::from_le_bytes(entry) & FRAME;

    (frame != 0).then_some(frame)
}

fn cgroup() -> Verdict {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.trim().rsplit(':').next().unwrap_or_default();
    let own = format!("/sys/fs/cgroup{own}");

    Verdict::all([
        (
            "move",
            Verdict::denied(open_to_write("/sys/fs/cgroup/cgroup.procs")),
        ),
        (
            "processes",
            Verdict::denied(open_to_write(&format!("{own}/pids.max"))),
        ),
        (
            "memory",
            Verdict::denied(open_to_write(&format!("{own}/memory.max"))),
        ),
        ("make", Verdict::denied(fs::create_dir(format!("{own}/x")))),
    ])
}

fn host() -> Verdict {
    let mut found = paths_below("/sys/firmware");
    found.extend(paths_below("/sys/class/dmi"));
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    // The name of the first process is not a path of the host.
    let words = line
        .split_whitespace()
        .filter(|word| !word.ends_with("=/init"));
    found.extend(words.filter(|word| word.contains('/')).map(str::to_owned));
    Verdict::none(&found)
}

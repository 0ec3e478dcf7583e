use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use fumehood_sys::guest::MappedFile;
use rustix::mount::mount_bind;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::error::{BootError, failed_to};
use crate::ca_bundle::CaBundle;
use crate::identity::{Identity, hosts};

/// The file with all certificate authorities that programs trust.
pub(super) const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Kernel settings that differ from the default.
const SETTINGS: [(&str, &str); 10] = [
    // The kernel's log and its addresses are useful only for attacks.
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    // Performance counters have had many vulnerabilities. 3 = only for root, on Debian's kernels.
    ("kernel/perf_event_paranoid", "3"),
    // One program could use up all open files that the kernel allows. Each costs memory, which is limited.
    ("fs/file-max", "9223372036854775807"),
    // The kernel of a small guest allows so few that one program could use them all. This is the sum of the cgroups
    // of 64 operations.
    ("kernel/threads-max", "32768"),
    // In /tmp, a program must not be led to write into a file, pipe or link that another user has put there. The kernel
    // does not protect files and pipes by default.
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    // No memory dump of a program that has changed its user.
    ("fs/suid_dumpable", "0"),
];

/// Applies the kernel settings and lifts the limit of processes per user.
pub(super) fn apply_settings() -> Result<(), BootError> {
    for (name, value) in SETTINGS {
        let path = format!("/proc/sys/{name}");
        fs::write(&path, value).map_err(failed_to(format!("write {value} to {path}")))?;
    }

    // The cgroup of each program limits its processes. A limit per user would let one program take those of others.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };

    setrlimit(Resource::Nproc, unlimited).map_err(failed_to("lift the limit of a user's processes"))
}

/// Sets the host name that the guest has before its first refresh.
pub(super) fn set_hostname() -> Result<(), BootError> {
    rustix::system::sethostname(b"fumehood").map_err(failed_to("set the host name"))
}

/// Makes the user's home, and in it the directory for Python packages: an interpreter finds packages that are installed
/// later only if this directory exists when the interpreter starts.
pub(super) fn make_home(path: &str, user: u32) -> Result<(), BootError> {
    let mut directories = vec![path.to_string()];
    if let Some(python) = find_python() {
        for below in [
            "",
            "/lib",
            &format!("/lib/{python}"),
            &format!("/lib/{python}/site-packages"),
        ] {
            directories.push(format!("{path}/.local{below}"));
        }
    }

    for directory in directories {
        fs::create_dir_all(&directory).map_err(failed_to(format!("make {directory}")))?;
        let given = chown(&directory, Some(user), Some(user));
        given.map_err(failed_to(format!("give {directory} to its user")))?;
    }

    Ok(())
}

/// Returns the name of the image's Python below `lib`, such as `python3.13`.
fn find_python() -> Option<String> {
    let names = fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|entry| entry.file_name());

    let mut names = names.filter_map(|name| name.into_string().ok());
    names.find(|name| {
        name.strip_prefix("python3.")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    })
}

/// Creates the files that identify the guest and that every refresh rewrites. They are in /run and bind-mounted over
/// their usual paths, because a write in /run is the cheapest.
///
/// The kernel keeps one boot id as long as its memory exists, in copies too. This hides it as well.
pub(super) fn create_identity() -> Result<Identity, BootError> {
    // The D-Bus library has its own file for the machine id; some images contain it.
    let link = "/var/lib/dbus/machine-id";
    if fs::symlink_metadata(link).is_ok_and(|m| m.is_file()) {
        let linked = fs::remove_file(link).and_then(|()| symlink("/etc/machine-id", link));
        linked.map_err(failed_to(format!("make {link} a link")))?;
    }

    let random = fs::File::open("/dev/urandom").map_err(failed_to("open /dev/urandom"))?;

    Ok(Identity {
        random,
        // An id of zeros belongs to no machine. It lasts until the first refresh.
        machine_id: mount_over("machine-id", "/etc/machine-id", &format!("{:032}\n", 0))?,
        boot_id: mount_over("boot-id", BOOT_ID, &format!("{}\n", read_boot_id()?))?,
        hosts: mount_over("hosts", "/etc/hosts", &hosts("fumehood"))?,
        ca_bundle: CaBundle::new(CA_BUNDLE.into()),
        awaits_refresh: false,
        machine_id_str: String::new(),
        fork_marks: Vec::new(),
    })
}

/// Creates a file in /run with these contents and bind-mounts it over `target`.
fn mount_over(name: &str, target: &str, contents: &str) -> Result<MappedFile, BootError> {
    let path = format!("/run/fumehood-{name}");
    let mut options = fs::OpenOptions::new();
    let made = options.read(true).write(true).create_new(true).open(&path);
    let file = made.map_err(failed_to(format!("make {path}")))?;
    let mapped = MappedFile::new(&file, contents.as_bytes());
    let mapped = mapped.map_err(failed_to(format!("write {path}")))?;

    if !Path::new(target).exists() {
        fs::write(target, "").map_err(failed_to(format!("make {target}")))?;
    }

    mount_bind(&path, target).map_err(failed_to(format!("put {path} over {target}")))?;

    Ok(mapped)
}

/// The file in which the kernel shows its boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Returns the kernel's boot id.
pub(super) fn read_boot_id() -> Result<String, BootError> {
    let id = fs::read_to_string(BOOT_ID).map_err(failed_to(format!("read {BOOT_ID}")))?;
    Ok(id.trim_end().to_string())
}

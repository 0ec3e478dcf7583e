use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use fumehood_sys::guest::MappedFile;
use rustix::mount::mount_bind;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{BUNDLE, BootError, refused};
use crate::freshness::{Identity, hosts};
use crate::trust::Trust;

/// What the kernel does not keep from programs by itself, and is told to.
const SETTINGS: [(&str, &str); 5] = [
    // Its log and its addresses are of use to nobody but who looks for a way in.
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    // Many a hole was in the performance counters. 3 = for root alone, on Debian's kernels.
    ("kernel/perf_event_paranoid", "3"),
    // One program could open all files that there may be. Each costs memory, which is the limit.
    ("fs/file-max", "9223372036854775807"),
    // A small guest's kernel allows so few that one program's share is all of them. What the cgroups of 64
    // operations may have.
    ("kernel/threads-max", "32768"),
];

/// Closes what programs have no business with.
pub(super) fn settings() -> Result<(), BootError> {
    for (name, value) in SETTINGS {
        let path = format!("/proc/sys/{name}");
        fs::write(&path, value).map_err(refused(format!("write {value} to {path}")))?;
    }
    // The user's processes are counted by the cgroup of each program, and not all together: one that has all it
    // may have takes nothing from the others.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Nproc, unlimited).map_err(refused("lift the limit of a user's processes"))
}

/// The guest's name.
pub(super) fn name() -> Result<(), BootError> {
    rustix::system::sethostname(b"fumehood").map_err(refused("set the host name"))
}

/// The user's home, which belongs to the user, and in it the place of Python's packages: an interpreter
/// looks there for those that are installed later only if it is there when it starts.
pub(super) fn home(path: &str, user: u32) -> Result<(), BootError> {
    let mut places = vec![path.to_string()];
    if let Some(python) = python() {
        for below in [
            "",
            "/lib",
            &format!("/lib/{python}"),
            &format!("/lib/{python}/site-packages"),
        ] {
            places.push(format!("{path}/.local{below}"));
        }
    }
    for place in places {
        fs::create_dir_all(&place).map_err(refused(format!("make {place}")))?;
        let given = chown(&place, Some(user), Some(user));
        given.map_err(refused(format!("give {place} to its user")))?;
    }
    Ok(())
}

/// The directory of this image's Python below `lib`, such as `python3.13`.
fn python() -> Option<String> {
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

/// The files by which a guest is known, to be renewed by every refresh. All of them lie in /run, and are
/// seen in their places: a write there is cheapest.
///
/// The kernel keeps one id of its boot for as long as its memory lives, copies included: that one is
/// hidden, too.
pub(super) fn identity() -> Result<Identity, BootError> {
    // The D-Bus library's own name for the machine's id, where the image has one.
    let link = "/var/lib/dbus/machine-id";
    if fs::symlink_metadata(link).is_ok_and(|m| m.is_file()) {
        let linked = fs::remove_file(link).and_then(|()| symlink("/etc/machine-id", link));
        linked.map_err(refused(format!("make {link} a link")))?;
    }
    let random = fs::File::open("/dev/urandom").map_err(refused("open /dev/urandom"))?;
    Ok(Identity {
        random,
        // An id of zeros is nobody's, and lasts until the first refresh.
        machine_id: over("machine-id", "/etc/machine-id", &format!("{:032}\n", 0))?,
        boot_id: over("boot-id", BOOT_ID, &format!("{}\n", boot_id()?))?,
        hosts: over("hosts", "/etc/hosts", &hosts("fumehood"))?,
        trust: Trust::new(BUNDLE.into()),
        awaits_refresh: false,
        known_as: String::new(),
    })
}

/// A file in /run with these contents, put over another.
fn over(name: &str, shown: &str, contents: &str) -> Result<MappedFile, BootError> {
    let path = format!("/run/fumehood-{name}");
    let mut options = fs::OpenOptions::new();
    let made = options.read(true).write(true).create_new(true).open(&path);
    let file = made.map_err(refused(format!("make {path}")))?;
    let mapped = MappedFile::new(&file, contents.as_bytes());
    let mapped = mapped.map_err(refused(format!("write {path}")))?;
    if !Path::new(shown).exists() {
        fs::write(shown, "").map_err(refused(format!("make {shown}")))?;
    }
    mount_bind(&path, shown).map_err(refused(format!("put {path} over {shown}")))?;
    Ok(mapped)
}

/// Where the kernel shows its name for this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's name for this boot.
pub(super) fn boot_id() -> Result<String, BootError> {
    let id = fs::read_to_string(BOOT_ID).map_err(refused(format!("read {BOOT_ID}")))?;
    Ok(id.trim_end().to_string())
}

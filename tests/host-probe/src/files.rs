use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use crate::{Breaches, succeeded};

/// Reads what belongs to the host.
pub(crate) fn read() -> Breaches {
    let files = [
        "/etc/passwd",
        "/etc/shadow",
        "/etc/hostname",
        "/root",
        "/home",
        "/tmp",
        "/var",
        "/sys",
        "/proc/1/root/etc/passwd",
        "/proc/version",
        "/proc/cmdline",
        "/proc/kallsyms",
        "/proc/mounts/..",
        "/usr/bin/sh",
        "/bin/sh",
    ];
    succeeded(files.map(|path| (path.into(), readable(Path::new(path)))))
}

fn readable(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        fs::read_dir(path).map(drop)
    } else {
        File::open(path).map(drop)
    }
}

/// Names in the root that nobody has.
const DIRECTORY: &str = "/fumehood-probe.directory";
const LINK: &str = "/fumehood-probe.link";

/// Writes, anywhere. A probe harms nobody where a wall is missing: it makes, and opens, and takes away what it made.
pub(crate) fn write() -> Breaches {
    let new = [
        "/fumehood-probe.new",
        "/tmp/fumehood-probe.new",
        "/usr/fumehood-probe.new",
        "/usr/bin/fumehood-probe.new",
        "/dev/fumehood-probe.new",
        "/dev/shm/fumehood-probe.new",
    ];
    // Where a wall is missing, nothing that it tried is left behind.
    let new = new.map(|path| {
        let made = File::create_new(path).and_then(|_| fs::remove_file(path));
        (path.to_string(), made)
    });
    let own = std::env::current_exe().unwrap_or_default();
    let there = [
        own.as_path(),
        Path::new("/proc/self/oom_score_adj"),
        Path::new("/etc/ld.so.cache"),
    ];
    let there = there.map(|path| {
        let opened = OpenOptions::new().write(true).open(path).map(drop);
        (path.display().to_string(), opened)
    });
    let directory = fs::create_dir(DIRECTORY).and_then(|()| fs::remove_dir(DIRECTORY));
    let directory = (format!("mkdir {DIRECTORY}"), directory);
    let link = std::os::unix::fs::symlink("/", LINK).and_then(|()| fs::remove_file(LINK));
    let link = (format!("symlink {LINK}"), link);
    succeeded(new.into_iter().chain(there).chain([directory, link]))
}

/// Looks for anything in the root that QEMU does not need. (Landlock forbids to list it, and not to ask.)
pub(crate) fn root() -> Breaches {
    const OF_A_HOST: [&str; 14] = [
        "root",
        "home",
        "tmp",
        "var",
        "sys",
        "run",
        "boot",
        "srv",
        "mnt",
        "media",
        "sbin",
        "etc/passwd",
        "etc/hosts",
        "dev/shm",
    ];
    let own = own_top();
    let others = OF_A_HOST.iter().filter(|name| own.as_deref() != Some(name));
    let there = others.filter(|name| Path::new("/").join(name).exists());
    let mut strange: Breaches = there.map(|name| format!("/{name}")).collect();
    let current = std::env::current_dir().unwrap_or_default();
    if current != Path::new("/") {
        strange.push(format!("the working directory is {}", current.display()));
    }
    strange
}

/// The first directory of this program's own path.
fn own_top() -> Option<String> {
    let own = std::env::current_exe().ok()?;
    let first = own.components().nth(1)?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

/// The descriptors that are open, by their paths.
fn held() -> impl Iterator<Item = (PathBuf, Metadata)> {
    // The limit of descriptors, past which there can be none but inherited ones; those are low.
    const MOST: usize = 1024;
    let paths = (0..MOST).map(|number| PathBuf::from(format!("/proc/self/fd/{number}")));
    paths.filter_map(|path| fs::metadata(&path).ok().map(|held| (path, held)))
}

/// Looks for descriptors that QEMU was not given: it has null for input and output, a pipe, sockets, and files.
pub(crate) fn descriptors() -> Breaches {
    let mut strange = Breaches::new();
    let mut count = 0;
    for (path, held) in held() {
        count += 1;
        let kind = held.file_type();
        let is_null = fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null"));
        if !is_null && !kind.is_file() && !kind.is_socket() && !kind.is_fifo() {
            strange.push(format!("{}: {kind:?}", path.display()));
        }
    }
    if count < 4 {
        strange.push(format!(
            "{count} descriptors were found: nothing was looked at"
        ));
    }
    strange
}

/// Opens the files that it holds (kernel, disks, templates) for writing, by `/proc`.
pub(crate) fn templates() -> Breaches {
    let mut tried = 0;
    let mut breaches = Breaches::new();
    for (path, _) in held().filter(|(_, held)| held.is_file()) {
        tried += 1;
        let opened = OpenOptions::new().write(true).open(&path);
        // A sealed file may be opened so, and not written.
        let written = opened.and_then(|file| file.write_at(b"x", 0));
        if written.is_ok() {
            breaches.push(path.display().to_string());
        }
    }
    if tried == 0 {
        breaches.push("no file was held, so that nothing was tried".into());
    }
    breaches
}

/// Opens and makes devices.
pub(crate) fn devices() -> Breaches {
    const KNOWN: [&str; 3] = ["null", "urandom", "kvm"];
    let there = fs::read_dir("/dev").into_iter().flatten().flatten();
    let names = there.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut breaches: Breaches = names
        .filter(|name| !KNOWN.contains(&name.as_str()))
        .collect();
    let paths = [
        "/dev/vda",
        "/dev/sda",
        "/dev/mem",
        "/dev/port",
        "/dev/tty",
        "/dev/fuse",
        "/dev/net/tun",
    ];
    breaches.extend(succeeded(paths.map(|path| (path.into(), File::open(path)))));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let disk = rustix::fs::makedev(8, 0);
    let made = ["/dev/fumehood-probe.disk", "/fumehood-probe.disk"].map(|path| {
        let kind = rustix::fs::FileType::BlockDevice;
        let made = rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, disk);
        let made = made.map(|()| fs::remove_file(path));
        (format!("mknod {path}"), made)
    });
    breaches.extend(succeeded(made));
    breaches
}

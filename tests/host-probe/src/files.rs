use std::fs::{self, File, Metadata, OpenOptions};
use std::os::fd::RawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use fumehood_sys::host::duplicate_inherited;

use crate::breaches::{Breaches, succeeded};

/// Tries to read files of the host.
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

    succeeded(files.map(|path| (path.into(), try_read(Path::new(path)))))
}

fn try_read(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        fs::read_dir(path).map(drop)
    } else {
        File::open(path).map(drop)
    }
}

/// Paths that exist on no host.
const DIRECTORY: &str = "/fumehood-probe.directory";
const LINK: &str = "/fumehood-probe.link";

/// Tries to write anywhere. The probe is harmless if the layer is missing: it creates and opens files, and removes
/// those that it created.
pub(crate) fn write() -> Breaches {
    let new_paths = [
        "/fumehood-probe.new",
        "/tmp/fumehood-probe.new",
        "/usr/fumehood-probe.new",
        "/usr/bin/fumehood-probe.new",
        "/dev/fumehood-probe.new",
        "/dev/shm/fumehood-probe.new",
    ];

    let new = new_paths.map(|path| {
        let created = File::create_new(path).and_then(|_| fs::remove_file(path));
        (path.to_string(), created)
    });

    let own = std::env::current_exe().unwrap_or_default();
    let existing_paths = [
        own.as_path(),
        Path::new("/proc/self/oom_score_adj"),
        Path::new("/etc/ld.so.cache"),
    ];

    let existing = existing_paths.map(|path| {
        let opened = OpenOptions::new().write(true).open(path).map(drop);
        (path.display().to_string(), opened)
    });

    let directory = fs::create_dir(DIRECTORY).and_then(|()| fs::remove_dir(DIRECTORY));
    let directory = (format!("mkdir {DIRECTORY}"), directory);
    let link = std::os::unix::fs::symlink("/", LINK).and_then(|()| fs::remove_file(LINK));
    let link = (format!("symlink {LINK}"), link);

    succeeded(new.into_iter().chain(existing).chain([directory, link]))
}

/// Looks for anything in the root that QEMU does not need. (Landlock forbids listing the root, but not testing
/// whether a path exists.)
pub(crate) fn root() -> Breaches {
    const HOST_PATHS: [&str; 14] = [
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

    let own = own_top_directory();
    let unneeded = HOST_PATHS
        .iter()
        .filter(|name| own.as_deref() != Some(name));
    let existing = unneeded.filter(|name| Path::new("/").join(name).exists());
    let mut breaches: Breaches = existing.map(|name| format!("/{name}")).collect();
    let current = std::env::current_dir().unwrap_or_default();

    if current != Path::new("/") {
        breaches.push(format!("the working directory is {}", current.display()));
    }

    breaches
}

/// Returns the first directory in the path of this program.
fn own_top_directory() -> Option<String> {
    let own = std::env::current_exe().ok()?;
    let first = own.components().nth(1)?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

/// Returns duplicates of the open descriptors, by their numbers. It needs no `/proc`, which a process that continues from an
/// image does not have.
fn open_descriptors() -> impl Iterator<Item = (RawFd, File, Metadata)> {
    // The limit of descriptors. Only inherited ones could exceed it, and those have low numbers.
    const MAX: RawFd = 1024;
    // Duplicates have numbers as well, so these are collected while none is open.
    let is_open = |number: &RawFd| duplicate_inherited(*number).is_ok();
    let numbers: Vec<RawFd> = (0..MAX).filter(is_open).collect();
    numbers.into_iter().filter_map(|number| {
        let duplicate = File::from(duplicate_inherited(number).ok()?);
        let metadata = duplicate.metadata().ok()?;
        Some((number, duplicate, metadata))
    })
}

/// Looks for descriptors that QEMU should not have. It has null for input and output, a pipe, sockets, and files.
pub(crate) fn descriptors() -> Breaches {
    let null = rustix::fs::makedev(1, 3);
    let mut breaches = Breaches::new();
    let mut count = 0;

    for (number, _, metadata) in open_descriptors() {
        count += 1;
        let kind = metadata.file_type();
        let is_null = kind.is_char_device() && metadata.rdev() == null;
        if !is_null && !kind.is_file() && !kind.is_socket() && !kind.is_fifo() {
            breaches.push(format!("{number}: {kind:?}"));
        }
    }

    if count < 4 {
        breaches.push(format!(
            "only {count} descriptors were found; the check did not work"
        ));
    }

    breaches
}

/// Returns the numbers of the open descriptors above standard error.
pub(crate) fn passed_descriptors() -> Vec<RawFd> {
    let numbers = open_descriptors().map(|(number, ..)| number);
    numbers.filter(|number| *number > 2).collect()
}

/// Tries to write to the inherited files (kernel, disks, templates): as they are, and opened anew by `/proc`.
pub(crate) fn templates() -> Breaches {
    let mut tried = 0;
    let mut breaches = Breaches::new();

    for (number, file, _) in open_descriptors().filter(|(.., metadata)| metadata.is_file()) {
        tried += 1;
        let path = format!("/proc/self/fd/{number}");
        let opened = OpenOptions::new().write(true).open(&path);
        // A sealed file can be opened for writing, but not written.
        let written = opened.and_then(|opened| opened.write_at(b"x", 0));

        if written.is_ok() || file.write_at(b"x", 0).is_ok() {
            breaches.push(path);
        }
    }

    if tried == 0 {
        breaches.push("no file was inherited, so nothing was tried".into());
    }

    breaches
}

/// Tries to open anything at all, as a process that continues from an image, whose root is empty.
pub(crate) fn any() -> Breaches {
    let paths = [
        "/proc",
        "/proc/self/maps",
        "/proc/self/exe",
        "/dev/null",
        "/dev",
        "/lib64",
        "/usr",
        "/etc",
        "/etc/ld.so.cache",
    ];
    let mut breaches = succeeded(paths.map(|path| (path.into(), File::open(path))));
    let listed = fs::read_dir("/").into_iter().flatten().flatten();
    breaches.extend(listed.map(|entry| entry.path().display().to_string()));

    breaches
}

/// Tries to open and create devices.
pub(crate) fn devices() -> Breaches {
    const KNOWN: [&str; 3] = ["null", "urandom", "kvm"];
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
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
    let created = ["/dev/fumehood-probe.disk", "/fumehood-probe.disk"].map(|path| {
        let kind = rustix::fs::FileType::BlockDevice;
        let created = rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, disk);
        let created = created.map(|()| fs::remove_file(path));
        (format!("mknod {path}"), created)
    });
    breaches.extend(succeeded(created));

    breaches
}

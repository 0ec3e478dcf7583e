use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

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

/// Returns the open descriptors, by their paths.
fn open_descriptors() -> impl Iterator<Item = (PathBuf, Metadata)> {
    // The limit of descriptors. Only inherited ones could exceed it, and those have low numbers.
    const MAX: usize = 1024;
    let paths = (0..MAX).map(|number| PathBuf::from(format!("/proc/self/fd/{number}")));
    paths.filter_map(|path| fs::metadata(&path).ok().map(|metadata| (path, metadata)))
}

/// Looks for descriptors that QEMU should not have. It has null for input and output, a pipe, sockets, and files.
pub(crate) fn descriptors() -> Breaches {
    let mut breaches = Breaches::new();
    let mut count = 0;

    for (path, metadata) in open_descriptors() {
        count += 1;
        let kind = metadata.file_type();
        let is_null = fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null"));
        if !is_null && !kind.is_file() && !kind.is_socket() && !kind.is_fifo() {
            breaches.push(format!("{}: {kind:?}", path.display()));
        }
    }

    if count < 4 {
        breaches.push(format!(
            "only {count} descriptors were found; the check did not work"
        ));
    }

    breaches
}

/// Tries to write to the inherited files (kernel, disks, templates), by `/proc`.
pub(crate) fn templates() -> Breaches {
    let mut tried = 0;
    let mut breaches = Breaches::new();

    for (path, _) in open_descriptors().filter(|(_, metadata)| metadata.is_file()) {
        tried += 1;
        let opened = OpenOptions::new().write(true).open(&path);
        // A sealed file can be opened for writing, but not written.
        let written = opened.and_then(|file| file.write_at(b"x", 0));

        if written.is_ok() {
            breaches.push(path.display().to_string());
        }
    }

    if tried == 0 {
        breaches.push("no file was inherited, so nothing was tried".into());
    }

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

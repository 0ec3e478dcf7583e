use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

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

/// Writes, anywhere.
pub(crate) fn write() -> Breaches {
    let new = [
        "/new",
        "/tmp/new",
        "/usr/new",
        "/usr/bin/new",
        "/dev/new",
        "/dev/shm/new",
    ];
    let new = new.map(|path| (path.to_string(), File::create_new(path).map(drop)));
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
    let directory = ("mkdir /d".to_string(), fs::create_dir("/d"));
    let link = (
        "symlink /l".to_string(),
        std::os::unix::fs::symlink("/", "/l"),
    );
    succeeded(
        new.into_iter()
            .chain(there)
            .chain([directory, link]),
    )
}

/// Looks for anything in the root that QEMU does not need.
pub(crate) fn root() -> Breaches {
    const NEEDED: [&str; 8] = ["dev", "etc", "lib", "lib64", "proc", "usr", "bin", "opt"];
    let above = own_top();
    let top = fs::read_dir("/").into_iter().flatten().flatten();
    let names = top.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut strange: Breaches = names
        .filter(|name| !NEEDED.contains(&name.as_str()) && Some(name) != above.as_ref())
        .collect();
    let etc = fs::read_dir("/etc").into_iter().flatten().flatten();
    strange.extend(
        etc.map(|entry| entry.path().display().to_string())
            .filter(|path| path != "/etc/ld.so.cache"),
    );
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

/// Looks for descriptors that QEMU was not given: it has null for input and output, a pipe, sockets, and files.
pub(crate) fn descriptors() -> Breaches {
    let links = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let mut strange = Breaches::new();
    for entry in links {
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let Ok(kind) = fs::metadata(entry.path()).map(|m| m.file_type()) else {
            continue;
        };
        let is_null = target == "/dev/null";
        // The descriptor by which this list is read is one, too.
        let is_list = target.ends_with("/fd") && target.starts_with("/proc/");
        let is_given = kind.is_file() || kind.is_socket() || kind.is_fifo();
        if !is_null && !is_list && !is_given {
            strange.push(format!("{}: {target}", entry.path().display()));
        }
    }
    strange
}

/// Opens the files that it holds (kernel, disks, templates) for writing, by `/proc`.
pub(crate) fn templates() -> Breaches {
    let links = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let files = links.filter(|entry| fs::metadata(entry.path()).is_ok_and(|m| m.is_file()));
    let mut held = 0;
    let mut breaches = Breaches::new();
    for entry in files {
        held += 1;
        let opened = OpenOptions::new().write(true).open(entry.path());
        // A sealed file may be opened so, and not written.
        let written = opened.and_then(|file| std::os::unix::fs::FileExt::write_at(&file, b"x", 0));
        if written.is_ok() {
            breaches.push(entry.path().display().to_string());
        }
    }
    if held == 0 {
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
    let made = ["/dev/disk", "/disk"].map(|path| {
        let kind = rustix::fs::FileType::BlockDevice;
        (
            format!("mknod {path}"),
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, disk),
        )
    });
    breaches.extend(succeeded(made));
    breaches
}

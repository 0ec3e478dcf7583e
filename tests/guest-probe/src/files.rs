//! Files and directories.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};

use crate::verdict::{Verdict, Wall};

pub(crate) const WALLS: &[Wall] = &[
    Wall {
        name: "system files",
        tried: "look for a file or directory outside of the home, /tmp, /var/tmp, /dev and /proc that can be written",
        attempt: || {
            let can_write = |path: &PathBuf| rustix::fs::access(path, Access::WRITE_OK).is_ok();
            let found = system_files().into_iter().filter(can_write);
            Verdict::none(&to_strings(found))
        },
    },
    Wall {
        name: "files that raise privileges",
        tried: "look for setuid and setgid files, and for those with capabilities",
        attempt: raise_privileges,
    },
    Wall {
        name: "other users' files",
        tried: "list /root, write to files of root in /run, make a hard link to /etc/passwd",
        attempt: other_users_files,
    },
    Wall {
        name: "traps in shared directories",
        tried: "read fs.protected_fifos, protected_regular, protected_hardlinks, protected_symlinks and suid_dumpable",
        attempt: shared_directories,
    },
];

/// The directories that the user may write to, or that other modules check.
const EXCLUDED: [&str; 6] = ["/home/user", "/tmp", "/var/tmp", "/dev", "/proc", "/sys"];

/// The maximum depth of the search, more than any file system here has.
const MAX_DEPTH: usize = 64;

/// Returns all paths below a directory, without following links.
pub(crate) fn paths_below(directory: &str) -> Vec<String> {
    to_strings(walk(Path::new(directory), &[]).into_iter())
}

/// Returns the paths that can be opened for writing.
pub(crate) fn writable(paths: Vec<String>) -> Vec<String> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let opens = |path: &String| rustix::fs::open(path, flags, Mode::empty()).is_ok();
    paths.into_iter().filter(opens).collect()
}

fn to_strings(paths: impl Iterator<Item = PathBuf>) -> Vec<String> {
    paths.map(|path| path.display().to_string()).collect()
}

fn system_files() -> Vec<PathBuf> {
    walk(Path::new("/"), &EXCLUDED)
}

fn walk(directory: &Path, excluded: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(directory.to_path_buf(), 0)];
    while let Some((directory, depth)) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if excluded.iter().any(|other| path == Path::new(other)) {
                continue;
            }

            match entry.file_type() {
                Ok(kind) if kind.is_symlink() => continue,
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => {
                    open.push((path.clone(), depth + 1))
                }
                _ => {}
            }

            found.push(path);
        }
    }

    found
}

fn raise_privileges() -> Verdict {
    const SETUID_OR_SETGID: u32 = 0o6000;
    let raises = |path: &PathBuf| {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return false;
        };
        let by_mode = metadata.is_file() && metadata.permissions().mode() & SETUID_OR_SETGID != 0;
        let mut value = [0_u8; 64];
        by_mode || rustix::fs::lgetxattr(path, "security.capability", &mut value).is_ok()
    };

    Verdict::none(&to_strings(system_files().into_iter().filter(raises)))
}

fn other_users_files() -> Verdict {
    let of_root = fs::read_dir("/run").into_iter().flatten().flatten();
    let of_root = of_root
        .filter(|entry| entry.metadata().is_ok_and(|m| m.is_file() && m.uid() == 0))
        .map(|entry| entry.path());

    let writes = |path: &PathBuf| File::options().write(true).open(path).is_ok();

    Verdict::all([
        ("root", Verdict::denied(fs::read_dir("/root"))),
        ("run", Verdict::none(&to_strings(of_root.filter(writes)))),
        (
            "link",
            Verdict::denied(fs::hard_link("/etc/passwd", "/tmp/passwd")),
        ),
    ])
}

/// Whether the kernel keeps root from following what a user has put into a sticky directory. Only root can try that, so
/// this reads the settings.
fn shared_directories() -> Verdict {
    const EXPECTED: [(&str, &str); 5] = [
        ("fifos", "protected_fifos=2"),
        ("files", "protected_regular=2"),
        ("hard links", "protected_hardlinks=1"),
        ("links", "protected_symlinks=1"),
        ("dumps", "suid_dumpable=0"),
    ];

    Verdict::all(EXPECTED.map(|(what, setting)| {
        let (name, expected) = setting.split_once('=').unwrap_or_default();
        let value = fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap_or_default();
        let verdict = match value.trim() == expected {
            true => Verdict::holds(setting),
            false => Verdict::fails(format!("{name}={}", value.trim())),
        };
        (what, verdict)
    }))
}

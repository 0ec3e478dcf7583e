//! The file system.

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
            let found = system().into_iter().filter(can_write);
            Verdict::none(&named(found))
        },
    },
    Wall {
        name: "files that raise privileges",
        tried: "look for setuid and setgid files, and for those with capabilities",
        attempt: raising,
    },
    Wall {
        name: "other users' files",
        tried: "list /root, write to files of root in /run, make a hard link to /etc/passwd",
        attempt: others,
    },
];

/// Directories that the user may write to, or that others look after.
const LEFT_OUT: [&str; 6] = ["/home/user", "/tmp", "/var/tmp", "/dev", "/proc", "/sys"];

/// How deep below a directory is looked: beyond what any file system here has.
const DEPTH: usize = 64;

/// All paths below a directory, links not followed.
pub(crate) fn below(directory: &str) -> Vec<String> {
    named(walk(Path::new(directory), &[]).into_iter())
}

/// Those of these that can be opened to write.
pub(crate) fn writable(paths: Vec<String>) -> Vec<String> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let opens = |path: &String| rustix::fs::open(path, flags, Mode::empty()).is_ok();
    paths.into_iter().filter(opens).collect()
}

fn named(paths: impl Iterator<Item = PathBuf>) -> Vec<String> {
    paths.map(|path| path.display().to_string()).collect()
}

fn system() -> Vec<PathBuf> {
    walk(Path::new("/"), &LEFT_OUT)
}

fn walk(directory: &Path, left_out: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(directory.to_path_buf(), 0)];
    while let Some((directory, depth)) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if left_out.iter().any(|out| path == Path::new(out)) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_symlink() => continue,
                Ok(kind) if kind.is_dir() && depth < DEPTH => open.push((path.clone(), depth + 1)),
                _ => {}
            }
            found.push(path);
        }
    }
    found
}

fn raising() -> Verdict {
    const SETUID_OR_SETGID: u32 = 0o6000;
    let raises = |path: &PathBuf| {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return false;
        };
        let by_mode = metadata.is_file() && metadata.permissions().mode() & SETUID_OR_SETGID != 0;
        let mut value = [0_u8; 64];
        by_mode || rustix::fs::lgetxattr(path, "security.capability", &mut value).is_ok()
    };
    Verdict::none(&named(system().into_iter().filter(raises)))
}

fn others() -> Verdict {
    let of_root = fs::read_dir("/run").into_iter().flatten().flatten();
    let of_root = of_root
        .filter(|entry| entry.metadata().is_ok_and(|m| m.is_file() && m.uid() == 0))
        .map(|entry| entry.path());
    let writes = |path: &PathBuf| File::options().write(true).open(path).is_ok();
    Verdict::all([
        ("root", Verdict::refused(fs::read_dir("/root"))),
        ("run", Verdict::none(&named(of_root.filter(writes)))),
        (
            "link",
            Verdict::refused(fs::hard_link("/etc/passwd", "/tmp/passwd")),
        ),
    ])
}

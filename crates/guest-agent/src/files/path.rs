use std::os::fd::{AsFd, OwnedFd};

use fumehood_protocol::{ErrorType, FileInfo, FileKind, GuestPath, WireError};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, readlinkat, statat};
use rustix::io::Errno;

use crate::agent::Agent;

/// The permission bits that a mode can hold.
pub(super) const PERMISSIONS: u32 = 0o7777;
/// The magic number of procfs: statfs(2).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Maximum number of directories that are made on the way to one path.
const MAX_PARENTS: usize = 256;
/// Maximum length of a path in an error message, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Returns a function that turns the error of an action on `path` into a `path_error`. `action` completes "cannot …".
pub(crate) fn path_error(
    action: &str,
    path: &GuestPath,
    agent: &Agent,
) -> impl Fn(Errno) -> WireError {
    let shown = path.as_str().chars().take(MAX_SHOWN_CHARS);
    let shown: String = shown.flat_map(char::escape_debug).collect();
    let action = action.to_string();

    let disk_full = describe_full_disk(agent);

    move |error| {
        let reason = match error {
            Errno::NOSPC => disk_full.clone(),
            other => std::io::Error::from(other).to_string(),
        };
        let message = format!("cannot {action} {shown}: {reason}");
        WireError::new(ErrorType::PathError, message).with_errno(error.raw_os_error())
    }
}

/// Says what a full disk lacks: space, or files. In a guest the disk is memory, and the text says how to get more.
fn describe_full_disk(agent: &Agent) -> String {
    let disk = rustix::fs::fstatvfs(&agent.confinement.working_dir);
    let files = disk
        .ok()
        .filter(|disk| disk.f_favail == 0 && disk.f_files > 0);
    let lack = match &files {
        Some(disk) => format!(
            "disk has no room for another file (inode), of {}",
            disk.f_files
        ),
        None => "disk is full".to_string(),
    };
    if agent.identity.is_none() {
        return format!("the {lack}");
    }

    let memory = rustix::system::sysinfo();
    let mib = memory.totalram.saturating_mul(u64::from(memory.mem_unit)) >> 20;
    let share = if files.is_some() {
        "their number depends on the guest's memory"
    } else {
        "it takes half of the guest's memory"
    };
    format!(
        "the guest's {lack}: {share}, which is {mib} MiB; remove files, or use a sandbox with more memory"
    )
}

/// Opens a path as the user. It follows no magic links, such as those in `/proc/PID/fd`.
///
/// # Errors
/// Returns the kernel's error; `EOPNOTSUPP` for files of procfs.
pub(crate) fn open_path(path: &str, flags: OFlags, agent: &Agent) -> rustix::io::Result<OwnedFd> {
    let mut flags = flags | OFlags::CLOEXEC;
    if !flags.contains(OFlags::PATH) {
        // The agent must not wait until someone opens the other end of a named pipe.
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
    }

    let home = &agent.confinement.working_dir;
    let opened = agent.confinement.as_user(|| {
        let resolve = ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(home, path, flags, Mode::empty(), resolve)
    })?;

    reject_procfs(opened)
}

/// Rejects files of procfs.
///
/// # Errors
/// `EOPNOTSUPP`.
pub(super) fn reject_procfs(opened: OwnedFd) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::fstatfs(&opened)?.f_type.cast_unsigned() {
        PROC_SUPER_MAGIC => Err(Errno::OPNOTSUPP),
        _ => Ok(opened),
    }
}

/// A path split into the directory, which is open, and the name in it.
pub(crate) struct Location {
    pub(crate) directory: OwnedFd,
    pub(crate) name: String,
}

/// Opens the directory of a path whose last component need not exist.
///
/// # Errors
/// Returns the kernel's error; `EINVAL` if the path ends with `/`, `.` or `..`.
pub(crate) fn locate(path: &GuestPath, agent: &Agent) -> rustix::io::Result<Location> {
    let whole = path.as_str().trim_end_matches('/');
    let (before, name) = match whole.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((before, name)) => (before, name),
        None => (".", whole),
    };

    if matches!(name, "" | "." | "..") {
        return Err(Errno::INVAL);
    }

    let directory = open_path(before, OFlags::PATH | OFlags::DIRECTORY, agent)?;
    let name = name.to_string();

    Ok(Location { directory, name })
}

/// Makes the missing directories on the way to a path.
///
/// # Errors
/// Returns the kernel's error; `ENAMETOOLONG` for too many directories.
pub(crate) fn make_parents(path: &GuestPath, agent: &Agent) -> rustix::io::Result<()> {
    let path = path.as_str().trim_end_matches('/');
    let ends = path.match_indices('/').map(|(at, _)| at);
    if ends.clone().count() > MAX_PARENTS {
        return Err(Errno::NAMETOOLONG);
    }

    for end in ends.filter(|at| *at > 0) {
        let home = &agent.confinement.working_dir;
        let mode = Mode::from_raw_mode(0o755);
        let make = || rustix::fs::mkdirat(home, &path[..end], mode);

        match agent.confinement.as_user(make) {
            Ok(()) | Err(Errno::EXIST) => {}
            // The directory exists, in one that the user may not write to.
            Err(Errno::ACCESS | Errno::ROFS | Errno::PERM)
                if open_path(&path[..end], OFlags::PATH, agent).is_ok() => {}
            Err(error) => return Err(error),
        }
    }

    Ok(())
}

/// Describes the file with this name in a directory. It does not follow a symbolic link.
///
/// # Errors
/// Returns the kernel's error.
pub(crate) fn file_info(
    directory: impl AsFd,
    name: &str,
    shown: String,
) -> rustix::io::Result<FileInfo> {
    let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = file_kind(&stat);
    let target = match kind {
        FileKind::Link => readlinkat(&directory, name, Vec::new()).ok(),
        _ => None,
    };

    Ok(FileInfo {
        path: shown,
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & PERMISSIONS,
        user: stat.st_uid,
        modified_us: stat.st_mtime.saturating_mul(1_000_000)
            + i64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1000,
        target: target.map(|target| target.to_string_lossy().into_owned()),
    })
}

pub(super) fn file_kind(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    }
}

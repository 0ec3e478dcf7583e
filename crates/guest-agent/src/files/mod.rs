//! Files, with the rights of the user that programs run as.
//!
//! The kernel itself is asked to use no other rights ([`Confinement::as_user`]), so whatever links and
//! renames a program puts in the way, nothing is touched that the program could not touch itself. What
//! the kernel shows of processes is left out: for it, the one who asks is the agent.

mod change;
mod list;
mod read;
mod remove;
mod transfer;
mod watch;
mod write;

use std::os::fd::{AsFd, OwnedFd};

use fumehood_protocol::{ErrorType, FileInfo, FileKind, GuestPath, WireError};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, readlinkat, statat};
use rustix::io::Errno;

use crate::agent::Agent;

pub(crate) use change::{make_dir, move_file, stat};
pub(crate) use list::list;
pub(crate) use read::read;
pub(crate) use remove::remove;
pub(crate) use transfer::Transfer;
pub(crate) use watch::watch;
pub(crate) use write::write;

/// Permissions that a mode can hold.
const PERMISSIONS: u32 = 0o7777;
/// The file system that shows processes: statfs(2).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Directories that are made on the way to one path at most.
const MOST_PARENTS: usize = 256;

/// What went wrong with a path, as an answer.
fn refused(what: &str, path: &GuestPath, agent: &Agent) -> impl Fn(Errno) -> WireError {
    let shown = path.as_str().chars().take(200).flat_map(char::escape_debug);
    let shown: String = shown.collect();
    let disk = match agent.identity {
        Some(_) => {
            let memory = rustix::system::sysinfo();
            let mib = memory.totalram.saturating_mul(u64::from(memory.mem_unit)) >> 20;
            format!(
                "the guest's disk is full: it takes half of the guest's memory, which is {mib} MiB; \
                 remove files, or use a sandbox with more memory"
            )
        }
        None => "the disk is full".to_string(),
    };
    let what = what.to_string();
    move |error| {
        let why = match error {
            Errno::NOSPC => disk.clone(),
            other => std::io::Error::from(other).to_string(),
        };
        let message = format!("cannot {what} {shown}: {why}");
        WireError::new(ErrorType::PathError, message).with_errno(error.raw_os_error())
    }
}

/// Opens what is at a path, through no link of the kernel's own making.
fn open(path: &str, flags: OFlags, agent: &Agent) -> rustix::io::Result<OwnedFd> {
    let mut flags = flags | OFlags::CLOEXEC;
    if !flags.contains(OFlags::PATH) {
        // Nobody waits for a pipe's other end.
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
    }
    let home = &agent.confinement.directory;
    let opened = agent.confinement.as_user(|| {
        let resolve = ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(home, path, flags, Mode::empty(), resolve)
    })?;
    not_of_processes(opened)
}

/// Refuses what the kernel shows of processes.
fn not_of_processes(opened: OwnedFd) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::fstatfs(&opened)?.f_type.cast_unsigned() {
        PROC_SUPER_MAGIC => Err(Errno::OPNOTSUPP),
        _ => Ok(opened),
    }
}

/// The directory that a path's last name is in, and that name.
struct Place {
    directory: OwnedFd,
    name: String,
}

/// Finds the place of something that need not be there.
fn place(path: &GuestPath, agent: &Agent) -> rustix::io::Result<Place> {
    let whole = path.as_str().trim_end_matches('/');
    let (before, name) = match whole.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((before, name)) => (before, name),
        None => (".", whole),
    };
    if matches!(name, "" | "." | "..") {
        return Err(Errno::INVAL);
    }
    let directory = open(before, OFlags::PATH | OFlags::DIRECTORY, agent)?;
    let name = name.to_string();
    Ok(Place { directory, name })
}

/// Makes the directories on the way to a path that are missing.
fn make_parents(path: &GuestPath, agent: &Agent) -> rustix::io::Result<()> {
    let path = path.as_str().trim_end_matches('/');
    let ends = path.match_indices('/').map(|(at, _)| at);
    if ends.clone().count() > MOST_PARENTS {
        return Err(Errno::NAMETOOLONG);
    }
    for end in ends.filter(|at| *at > 0) {
        let home = &agent.confinement.directory;
        let mode = Mode::from_raw_mode(0o755);
        let make = || rustix::fs::mkdirat(home, &path[..end], mode);
        match agent.confinement.as_user(make) {
            Ok(()) | Err(Errno::EXIST) => {}
            // One that may not be written to, and is there.
            Err(Errno::ACCESS | Errno::ROFS | Errno::PERM)
                if open(&path[..end], OFlags::PATH, agent).is_ok() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is at a name in a directory; a link is not followed.
fn info(directory: impl AsFd, name: &str, shown: String) -> rustix::io::Result<FileInfo> {
    let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = kind(&stat);
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

fn kind(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    }
}

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// An unprivileged user and group, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The user id.
    pub uid: u32,
    /// The group id; all supplementary groups are dropped.
    pub gid: u32,
}

impl Credentials {
    /// The user and group `nobody` of every Linux.
    pub const NOBODY: Self = Self {
        uid: 65534,
        gid: 65534,
    };
}

/// Starts `command`. It inherits the descriptors `inherit` under the same numbers, and no others above
/// standard error.
///
/// The child is killed when the *thread* that called this ends: call it from a thread that lives as long as
/// the owner of the child.
///
/// # Errors
/// The error of the operating system, from fork or from exec.
pub fn spawn(mut command: Command, inherit: &[&OwnedFd]) -> io::Result<Child> {
    let inherit: Vec<RawFd> = inherit.iter().map(|fd| fd.as_raw_fd()).collect();
    let parent = std::process::id();
    let before_exec = move || {
        close_fds_except(&inherit)?;
        die_with_parent(parent)
    };

    // SAFETY: between fork and exec the closure makes system calls only: it does not allocate,
    // lock or unwind, and the descriptors it names are open until `spawn` returns.
    unsafe { command.pre_exec(before_exec) };

    command.spawn()
}

/// Returns whether this process may start children as this user: root may, except as root of a user namespace
/// that does not map this user.
#[must_use]
pub fn can_setuid(Credentials { uid, gid }: Credentials) -> bool {
    let is_mapped = |map: &str, id: u32| {
        let text = std::fs::read_to_string(map).unwrap_or_default();
        text.lines().any(|line| {
            let mut numbers = line
                .split_ascii_whitespace()
                .map(|n| n.parse::<u64>().unwrap_or(0));

            let (inside, _, count) = (numbers.next(), numbers.next(), numbers.next());
            inside
                .zip(count)
                .is_some_and(|(inside, count)| (inside..inside + count).contains(&u64::from(id)))
        })
    };

    let groups = std::fs::read_to_string("/proc/self/setgroups").unwrap_or_else(|_| "allow".into());
    rustix::process::geteuid().is_root()
        && groups.trim() == "allow"
        && is_mapped("/proc/self/uid_map", uid)
        && is_mapped("/proc/self/gid_map", gid)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take one number; the unused arguments must be 0.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) })
}

/// Sets the parent-death signal.
fn die_with_parent(parent: u32) -> io::Result<()> {
    const SIGKILL: libc::c_ulong = libc::SIGKILL as libc::c_ulong;
    prctl(libc::PR_SET_PDEATHSIG, SIGKILL)?;
    // SAFETY: takes nothing, cannot fail.
    let current = unsafe { libc::getppid() };

    // If the parent died before the signal was set, the kernel would never kill this child.
    if u32::try_from(current) == Ok(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Marks every descriptor above standard error to be closed at exec, except these.
///
/// # Errors
/// The error of the operating system: one of these is not open.
pub fn close_fds_except(inherit: &[RawFd]) -> io::Result<()> {
    const FIRST: libc::c_int = 3;
    // SAFETY: marks descriptors of this process; none is closed before exec.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if marked == -1 {
        // Linux before 5.11: one by one. Our own descriptors are close-on-exec anyway.
        const MAX: libc::c_int = 65_536;
        for fd in FIRST..MAX {
            // SAFETY: F_SETFD takes a number; one that is not open is an error without effect.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }

    // SAFETY: the descriptors are open; F_SETFD takes a number.
    inherit
        .iter()
        .try_for_each(|&fd| check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn only_the_named_descriptors_are_inherited() {
        let inherited: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let other = std::fs::File::open("/dev/zero").unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "ls -l /proc/$$/fd"])
            .stdout(Stdio::piped());

        let mut child = spawn(command, &[&inherited]).unwrap();
        let mut names = String::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_string(&mut names).unwrap();
        child.wait().unwrap();
        assert!(names.contains("/dev/null"), "{names}");
        assert!(!names.contains("/dev/zero"), "{names}");
        drop(other);
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let started = std::thread::spawn(|| {
            let mut command = Command::new("/bin/sleep");
            command.arg("600");
            spawn(command, &[]).unwrap()
        });

        let mut child = started.join().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() {
            assert!(
                std::time::Instant::now() < deadline,
                "the child outlived its owner"
            );
            std::thread::yield_now();
        }
    }
}
